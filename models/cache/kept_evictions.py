"""Evictions that could not reach Redis: kept in PostgreSQL, with the writing they belong to, until somebody does them.

Whoever finds them does them: the relay in each of its passes, and every process that wants to believe the cache again.
Doing one twice costs a miss.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from models.database.engine import last_books, transaction
from models.database.session import Session, Statement, read_rows
from observe import metrics

# Done in one go.
MOST_AT_ONCE = 500

_FIND = Statement("find_kept_evictions", ("int",), "SELECT wallet_id, version FROM kept_evictions LIMIT $1")
# A row that a posting holds is left for the next time. Without that, the two could wait for each other's rows.
_FORGET = Statement(
    "forget_kept_evictions",
    ("bigint[]", "bigint[]"),
    """
WITH done AS (
    SELECT kept.wallet_id FROM kept_evictions AS kept JOIN unnest($1, $2) AS told (wallet_id, version)
        ON kept.wallet_id = told.wallet_id AND kept.version <= told.version
    FOR UPDATE OF kept SKIP LOCKED
)
DELETE FROM kept_evictions AS kept USING done WHERE kept.wallet_id = done.wallet_id
""",
)
# Within a posting, the wallets' locks keep the rows' order.
_KEEP = """
INSERT INTO kept_evictions (wallet_id, version)
SELECT * FROM unnest('{{{ids}}}'::bigint[], '{{{versions}}}'::bigint[]) ORDER BY 1
ON CONFLICT (wallet_id) DO UPDATE SET version = greatest(kept_evictions.version, excluded.version)
"""
# Whoever has locked or changed a wallet in a transaction that is still open, and whoever waits for that.
_FIND_WRITERS = Statement(
    "find_writers",
    ("regclass",),
    """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = $1 AND mode IN ('RowShareLock', 'RowExclusiveLock')
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""",
)

_log = structlog.get_logger("cache")


def keeping(versions: Mapping[int, int]) -> str:
    """Return the statement that keeps evictions of wallets, to be done later."""
    return _KEEP.format(ids=",".join(map(str, versions)), versions=",".join(map(str, versions.values())))


class KeptEvictions:
    """Those of one database."""

    def __init__(self, engine: Engine, tell: Callable[[Mapping[int, int]], object]) -> None:
        """Connect to nothing yet.

        Args:
            engine: of the database.
            tell: evicts wallets, by the versions that they have now; raises what redis-py raises.
        """
        self._engine = engine
        self._tell = tell

    def keep(self, versions: Mapping[int, int]) -> None:
        """Keep evictions that have no transaction of their own left to be kept in; a failure is logged."""
        try:
            with transaction(self._engine) as connection:
                connection.exec_driver_sql(keeping(versions))
        except Exception as error:  # noqa: BLE001 - the money has moved, and that is what is answered
            _log.error("eviction lost: bounded by its time to live", wallets=len(versions), cause=type(error).__name__)

    def settle(self) -> bool:
        """Do some of them, and return whether there were none.

        Raises:
            redis.RedisError: Redis is away.
            Unavailable: PostgreSQL is away.
        """
        kept = read_rows(self._engine, _FIND, MOST_AT_ONCE)
        metrics.cache_kept_evictions.set(len(kept))
        if not kept:
            return True
        versions = dict(kept)
        self._tell(versions)
        try:
            with Session(self._engine) as session:
                session.run(_FORGET, list(versions), list(versions.values()))
        except SQLAlchemyError as error:
            _log.warning("kept evictions are done once more", cause=type(error).__name__)
        else:
            _log.info("kept evictions done", wallets=len(versions))
        return False

    def find_books(self) -> str | None:
        """Return a word that tells these books from others, and from themselves before a restore.

        Without a question, once there was any other; None: PostgreSQL is away.
        """
        if last_books(self._engine) is None:
            with suppress(SQLAlchemyError), self._engine.connect():
                pass
        return last_books(self._engine)

    def find_writers(self) -> set[str]:
        """Return the transactions that write to wallets now: what they keep is not to be seen before they end.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        return {row[0] for row in read_rows(self._engine, _FIND_WRITERS, "wallets")}
