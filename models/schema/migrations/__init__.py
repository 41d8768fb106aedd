"""Bringing a database to the newest schema. Whether it is there: :mod:`models.schema.revision`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

_HERE = Path(__file__).resolve().parent
# Any constant would do: it only has to be the same in every process that changes this database's schema.
_LOCK = 7_246_011


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def upgrade(engine: Engine) -> None:
    """Apply every migration that is missing. Two that start at once are fine: env.py takes an advisory lock."""
    config = _config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def lock(connection: Connection) -> None:
    """Let nobody else change the schema or its privileges until this transaction ends.

    Whoever comes second waits here for the first: the service's own bounds are meant for payments.
    """
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(text("SET LOCAL statement_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
