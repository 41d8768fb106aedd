"""What a process of the service opens, out of its settings. Nothing is connected before its first use."""

import redis
from sqlalchemy import Engine

from config import Settings
from models.cache.wallet_cache import WalletCache
from models.database.engine import create_bounded_engine
from models.redis_line.client import connect_redis

# A worker waits longer for Redis than a request would, and for longer than any wait of its own: a Redis that hangs is
# found out by it.
WORKER_CONNECT_TIMEOUT_S = 1.0
WORKER_ANSWER_TIMEOUT_S = 5.0


# What a worker cannot do without: a connection to settle by, and one for its relay. It keeps them once it has them.
CONNECTIONS_OF_A_WORKER = 2
# What a process that sends webhooks has at most: one for what feeds, one for what claims, the others for attempts that
# have ended. One such process is enough, and counted is a second, which takes over when the first is replaced.
OF_WEBHOOKS = 4
WEBHOOK_PROCESSES = 2
# What a process of the API takes for a scrape, beside its pool (api/readings.py).
OF_A_SCRAPE = 1


def make_engine(
    settings: Settings, *, application_name: str = "wallet-worker", pool_size: int | None = None, kept: int = 0
) -> Engine:
    """Make an engine: all of a process's ways to PostgreSQL, DB_CONNECTIONS of them unless told otherwise.

    ``kept`` of them stay open, once they are.
    """
    return create_bounded_engine(
        settings.sqlalchemy_url,
        timeouts_ms=settings.database_timeouts_ms,
        pool_size=pool_size or settings.db_connections,
        application_name=application_name,
        kept=kept,
    )


def count_wanted(settings: Settings, *, workers: int) -> tuple[int, int]:
    """Return how many connections the faces may have at most, API and gRPC, and how many those behind them.

    These are so many workers, and two processes that send webhooks.
    """
    of_api = settings.api_processes * (settings.db_connections + OF_A_SCRAPE)
    of_grpc = settings.grpc_processes * settings.db_connections if settings.grpc_port else 0
    return of_api + of_grpc, workers * settings.db_connections + WEBHOOK_PROCESSES * OF_WEBHOOKS


def make_cache(settings: Settings, engine: Engine) -> WalletCache:
    """Make the cache that this service reads its wallets through; whoever writes to them has to evict from it."""
    url = settings.cache_url.get_secret_value()
    return WalletCache(
        lambda timeout_s: connect_redis(url, answer_timeout_s=timeout_s),
        engine,
        ttl_s=settings.cache_ttl,
        longest_transaction_s=settings.longest_transaction_s,
    )


def connect_worker_redis(url: str) -> redis.Redis:
    """Make a worker's client. It waits longer than a request would, but not for ever, and never sends twice."""
    return connect_redis(url, connect_timeout_s=WORKER_CONNECT_TIMEOUT_S, answer_timeout_s=WORKER_ANSWER_TIMEOUT_S)
