"""A writer in a process of its own, killed just after its commit: ``python -m tests.models.cache.cache_child '{…}'``.

{"database_url": …, "redis_url": …}: deposits 5 cents into wallet 7
"""

import json
import os
import signal
import sys
from collections.abc import Mapping

from models.cache.wallet_cache import WalletCache
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from tests.models.cache.caching import cache_at
from tests.models.ledger.ordering import bounded_engine, deposit
from tests.patience import PATIENCE_S


def die(_cache: WalletCache, _versions: Mapping[int, int]) -> None:
    """Be killed where the eviction after the commit would be."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Write."""
    signal.alarm(int(PATIENCE_S))
    task = json.loads(sys.argv[1])
    with (
        bounded_engine(task["database_url"], lock_ms=5_000, statement_ms=5_000) as engine,
        cache_at(task["redis_url"], engine) as cache,
    ):
        WalletCache.evict_again = die  # type: ignore[method-assign, assignment]
        Orders(engine, Snowflake(NodeLease(engine)), cache).execute(deposit(7, 5))


if __name__ == "__main__":
    main()
