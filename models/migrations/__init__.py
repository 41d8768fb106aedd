"""Bringing a database to the newest schema, and telling whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_HERE = Path(__file__).resolve().parent


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


def readiness(engine: Engine) -> str:
    """Tell whether the database can be worked with: ``ok``, ``unreachable`` or ``not migrated``."""
    try:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except (DBAPIError, PoolTimeoutError):
        return "unreachable"
    return "ok" if revision == NEWEST else "not migrated"
