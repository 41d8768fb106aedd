"""Which revision of the schema a database is at, and which is the newest.

Every process asks that. Alembic, which could tell too, is for those that migrate: it would cost each process as much
memory as it gives to its metrics, its queue and its tokens together.
"""

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
SELECT version_num, current_setting('transaction_read_only') = 'on' AS is_read_only,
    current_setting('client_connection_check_interval') = '0' AS is_pooled FROM alembic_version
""")
# What pgbouncer says to the parameters of a session.
_NO_SESSION = "unsupported startup parameter"


def readiness(engine: Engine) -> str:
    """Tell whether the database can be worked with.

    ``ok``, ``unreachable``, ``not migrated``, ``read only`` (a standby is) or ``behind a pooler``.
    """
    try:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            found = connection.execute(_STATE).all()
    except (DBAPIError, PoolTimeoutError) as error:
        if _NO_SESSION in str(error):
            return "behind a pooler"
        return "not migrated" if _is_about_a_missing_table(error) else "unreachable"
    if [row.version_num for row in found] != [NEWEST]:
        return "not migrated"
    return "behind a pooler" if found[0].is_pooled else "read only" if found[0].is_read_only else "ok"


def _is_about_a_missing_table(error: DBAPIError | PoolTimeoutError) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _NO_SUCH_TABLE
