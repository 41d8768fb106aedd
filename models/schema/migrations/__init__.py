"""Bringing a database to the newest schema, and telling whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_HERE = Path(__file__).resolve().parent
# Any constant would do: it only has to be the same in every process that changes this database's schema.
_LOCK = 7_246_011


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


NEWEST = ScriptDirectory.from_config(_config()).get_current_head()


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


def readiness(engine: Engine) -> str:
    """Tell whether the database can be worked with: ``ok``, ``unreachable`` or ``not migrated``."""
    try:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except (DBAPIError, PoolTimeoutError):
        return "unreachable"
    return "ok" if revision == NEWEST else "not migrated"
