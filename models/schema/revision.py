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


def readiness(engine: Engine) -> str:
    """Tell whether the database can be worked with: ``ok``, ``unreachable`` or ``not migrated``."""
    try:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            revisions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    except (DBAPIError, PoolTimeoutError) as error:
        return "not migrated" if _is_about_a_missing_table(error) else "unreachable"
    return "ok" if revisions == [NEWEST] else "not migrated"


def _is_about_a_missing_table(error: DBAPIError | PoolTimeoutError) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _NO_SUCH_TABLE
