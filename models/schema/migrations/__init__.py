"""Bringing a database to the newest schema. Whether it is there: :mod:`models.schema.revision`.

A migration has a transaction of its own, and may take hours where a payment may take seconds: what it may wait for, and
for how long, :mod:`models.schema.migrations.exclusive` says. What has to run outside a transaction, beside a service
that goes on, is in :mod:`models.schema.migrations.online`.
"""

import os
import time
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from models.schema.migrations.exclusive import TIMEOUT_S, alone
from models.schema.migrations.progress import told

_HERE = Path(__file__).resolve().parent
# Where migrations are looked for.
VERSIONS = [_HERE / "versions"]
# A table that is in use is left alone this long before the next try, and longer each time: whoever waits for a lock on
# all of it makes everybody wait who comes after.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
# SQLSTATE: a lock that did not come free in time, and one that was given up for somebody else's sake.
_IN_USE = frozenset({"55P03", "40P01"})

_log = structlog.get_logger("migrations")


def upgrade(engine: Engine, *, timeout_s: float = TIMEOUT_S) -> None:
    """Apply every migration that is missing. Several may start at once: all but one wait, and say for whom.

    Each migration is a transaction: one that breaks off, or is killed, leaves those before it, and is simply run again.

    Args:
        engine: connects as the owner of the tables.
        timeout_s: seconds that a statement may take, and that all waiting may.

    Raises:
        TimeoutError: somebody else has been changing the schema for that long.
        alembic.util.CommandError: the database is newer than this code.
        sqlalchemy.exc.DBAPIError: a migration has failed; a lock that it needs did not come free in that time.
    """
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    config = _config()
    with alone(engine, timeout_s=timeout_s) as connection, told(engine, connection):
        config.attributes["connection"] = connection
        while True:
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                if getattr(error.orig, "pgcode", None) not in _IN_USE or time.monotonic() + pause_s > deadline:
                    raise
                connection.rollback()
                _log.info("a table is in use: tried again", pause_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                connection.commit()
                return


def _config() -> Config:
    config = Config()
    # As a configuration file spells them.
    locations = os.pathsep.join(map(str, VERSIONS)).replace("%", "%%")
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("version_locations", locations)
    config.set_main_option("path_separator", "os")
    return config
