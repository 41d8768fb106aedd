"""Caches for tests, on real servers."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from sqlalchemy import Engine, text

from models.cache.wallet_cache import Miss, WalletCache
from models.redis_line.client import connect_redis
from ops.local.processes import wait_for
from tests.patience import PATIENCE_S

FIELD = "balance"
LONGEST_TRANSACTION_S = 20.0


@contextmanager
def cache_at(
    url: str, engine: Engine, *, ttl_s: int = 300, longest_transaction_s: float = LONGEST_TRANSACTION_S
) -> Iterator[WalletCache]:
    """Make a cache as the service does."""
    cache = WalletCache(
        lambda timeout_s: connect_redis(url, answer_timeout_s=timeout_s),
        engine,
        ttl_s=ttl_s,
        longest_transaction_s=longest_transaction_s,
    )
    try:
        yield cache
    finally:
        cache.close()


def missed(cache: WalletCache, wallet_id: int, field: str = FIELD) -> Miss:
    """Ask for what is not cached; when nothing may be believed for a while, as after a stall, then later."""
    found: list[object] = []

    def ask() -> bool:
        found.append(cache.look(wallet_id, field))
        return found[-1] is not None

    assert wait_for(ask, PATIENCE_S)
    assert isinstance(found[-1], Miss), found[-1]
    return found[-1]


def hit(cache: WalletCache, wallet_id: int, field: str = FIELD) -> bytes:
    """Ask for what is cached."""
    found: list[object] = []

    def ask() -> bool:
        found.append(cache.look(wallet_id, field))
        return found[-1] is not None

    assert wait_for(ask, PATIENCE_S)
    assert isinstance(found[-1], bytes), found[-1]
    return found[-1]


def put(cache: WalletCache, wallet_id: int, version: int, payload: bytes = b"{}", field: str = FIELD) -> bool:
    """Miss, and fill."""
    return cache.fill(wallet_id, field, missed(cache, wallet_id, field), version, payload)


def kept(engine: Engine) -> dict[int, int]:
    """The evictions that are kept."""
    with engine.connect() as connection:
        return {row.wallet_id: row.version for row in connection.execute(text("SELECT * FROM kept_evictions"))}


def cached_keys(client: redis.Redis, wallet_id: int) -> set[str]:
    """Every key that has the wallet's id in it."""
    return {key.decode() for key in client.scan_iter(f"*:{wallet_id}")}
