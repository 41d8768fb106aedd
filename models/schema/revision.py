"""Which revision of the schema a database is at, and which is the newest.

Every process asks that. Alembic, which could tell too, is for those that migrate: it would cost each process as much
memory as it gives to its metrics, its queue and its tokens together.

Migrations only add, so code works with a database that is newer than it, until a migration takes away what that code
used: such a one says so, in the database (:func:`works_from`).
"""

import re
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_VERSIONS = Path(__file__).resolve().parent / "migrations" / "versions"
# The name of a migration's file begins with its revision.
NEWEST = max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))
_NO_SUCH_TABLE = "42P01"
# A standby is read-only, too. Every connection of ours has an interval, unless a pooler in between has dropped it.
_STATE = text("""
SELECT version_num, obj_description('alembic_version'::regclass, 'pg_class') AS remark,
    current_setting('transaction_read_only') = 'on' AS is_read_only,
    current_setting('client_connection_check_interval') = '0' AS is_pooled FROM alembic_version
""")
_WORKS_FROM = "Works with code from {} on."
# What pgbouncer says to the parameters of a session.
_NO_SESSION = "unsupported startup parameter"


def readiness(engine: Engine) -> str:
    """Tell whether the database can be worked with.

    ``ok``, ``unreachable``, ``not migrated``, ``too new``, ``read only`` (a standby is) or ``behind a pooler``.
    """
    try:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            rows = connection.execute(_STATE).all()
    except (DBAPIError, PoolTimeoutError) as error:
        if _NO_SESSION in str(error):
            return "behind a pooler"
        return "not migrated" if _is_about_a_missing_table(error) else "unreachable"
    if len(rows) != 1 or not rows[0].version_num.isdecimal() or int(rows[0].version_num) < int(NEWEST):
        return "not migrated"
    oldest = re.fullmatch(_WORKS_FROM.format("([0-9]+)"), rows[0].remark or "")
    if oldest and int(NEWEST) < int(oldest[1]):
        return "too new"
    return "behind a pooler" if rows[0].is_pooled else "read only" if rows[0].is_read_only else "ok"


def works_from(revision: str) -> str:
    """Return the statement with which a migration says that code older than a revision cannot work with it."""
    return f"COMMENT ON TABLE alembic_version IS '{_WORKS_FROM.format(revision)}'"


def _is_about_a_missing_table(error: DBAPIError | PoolTimeoutError) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _NO_SUCH_TABLE
