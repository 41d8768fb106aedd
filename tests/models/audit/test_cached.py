"""The audit of the cache: what is older than the books, or other than they were, is named; what is evicted is not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis
from sqlalchemy import Engine

from models.audit.audit import run_slice
from models.audit.cached import BALANCE, CacheCheck
from models.cache.pulse import EPOCH
from models.cache.wallet_cache import ENTRIES, Miss, WalletCache
from models.ledger.history import History
from models.ledger.orders import Orders
from models.redis_line.client import connect_redis
from ops.local.processes import wait_for
from tests.models.audit.auditing import begun
from tests.models.ledger.archiving import age, archive
from tests.models.ledger.ordering import deposit
from tests.patience import PATIENCE_S


def nothing() -> None:
    """Nothing happens between the looks."""


class Audits:
    """Audits of the cache in which no time passes between the two looks, but what the test has happen."""

    def __init__(self, engine: Engine, client: redis.Redis) -> None:
        self.now = 0.0
        self._checks = [CacheCheck(engine, client, clock=lambda: self.now)]

    def run(self, between: Callable[[], None] = nothing, *, limit: int = 2_000) -> dict[str, list[str]]:
        progress = begun("cache")
        while progress.check is not None:
            pause_s = run_slice(self._checks, progress, limit=limit).pause_s
            if pause_s:
                self.now += pause_s
                between()
        return {each.invariant: sorted(each.ids) for each in progress.findings.values()}


@pytest.fixture
def audits(engine: Engine, redis_client: redis.Redis) -> Audits:
    return Audits(engine, redis_client)


@pytest.fixture
def cache(engine: Engine, redis_client: redis.Redis, redis_url: str) -> Iterator[WalletCache]:
    """A cache that is believed, and in which nothing is."""
    del redis_client  # asked for to be emptied
    cache = WalletCache(
        lambda timeout_s: connect_redis(redis_url, answer_timeout_s=timeout_s),
        engine,
        ttl_s=300,
        longest_transaction_s=20.0,
    )
    assert wait_for(cache.pulse.believes, PATIENCE_S)
    yield cache
    cache.close()


@pytest.fixture
def filled(engine: Engine, orders: Orders, cache: WalletCache) -> WalletCache:
    """Wallets 1, 2 and 3, each with two entries, cached as a read would."""
    for user in (1, 2, 3):
        orders.execute(deposit(user, 100))
        orders.execute(deposit(user, user))
        cache_balance(cache, engine, user)
    return cache


def cache_balance(cache: WalletCache, engine: Engine, user: int) -> None:
    miss = cache.look(user, BALANCE)
    assert isinstance(miss, Miss)
    balance = History(engine).get_balance(user)
    assert cache.fill(user, BALANCE, miss, balance.version, orjson.dumps({"balance": balance.cents}))


@pytest.mark.parametrize("limit", [1, 2_000])
@pytest.mark.usefixtures("filled")
def test_what_was_read_passes(audits: Audits, limit: int) -> None:
    assert audits.run(limit=limit) == {}
    assert audits.now == 0.0  # nothing was even suspected


@pytest.mark.parametrize("limit", [1, 2_000])
@pytest.mark.usefixtures("filled")
def test_a_balance_that_is_over_is_named(audits: Audits, orders: Orders, limit: int) -> None:
    """Written past the cache: nobody evicts."""
    orders.execute(deposit(2, 1))
    assert audits.run(limit=limit) == {"cache_equals_books": ["2"]}


@pytest.mark.usefixtures("filled")
def test_a_balance_whose_entry_has_left_is_the_openings(
    audits: Audits, engine: Engine, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """What is cached stays: it is of the wallet's present version, and what that was has not changed."""
    age(engine)
    archive(engine, tmp_path)
    assert audits.run() == {}
    redis_client.hset(f"{ENTRIES}3", BALANCE, '{"balance": 104}')
    assert audits.run() == {"cache_equals_books": ["3"]}


def test_a_balance_that_never_was_is_named(audits: Audits, filled: WalletCache, redis_client: redis.Redis) -> None:
    del filled
    redis_client.hset(f"{ENTRIES}3", BALANCE, '{"balance": 104}')
    assert audits.run() == {"cache_equals_books": ["3"]}


@pytest.mark.usefixtures("filled")
def test_a_version_that_is_still_to_come_and_a_wallet_that_is_gone_are_named(
    audits: Audits, redis_client: redis.Redis
) -> None:
    """As when the database was put back to an earlier state, and the cache was not."""
    redis_client.hset(f"{ENTRIES}1", "version", 3)
    held = redis_client.hgetall(f"{ENTRIES}2")
    redis_client.hset(f"{ENTRIES}77", mapping=held)  # type: ignore[arg-type]
    assert audits.run() == {"cache_equals_books": ["1", "77"]}


def test_what_is_evicted_before_the_second_look_is_no_finding(
    audits: Audits, filled: WalletCache, orders: Orders, engine: Engine
) -> None:
    """And neither is what was then read anew, nor what moved on once more."""
    for user in (1, 2, 3):
        orders.execute(deposit(user, 1))

    def writers_evict() -> None:
        filled.evict({1: 3, 2: 3, 3: 3})
        cache_balance(filled, engine, 2)
        cache_balance(filled, engine, 3)
        orders.execute(deposit(3, 1))

    assert audits.run(writers_evict) == {}


@pytest.mark.usefixtures("filled")
def test_what_nobody_believes_is_no_finding(audits: Audits, orders: Orders, redis_client: redis.Redis) -> None:
    orders.execute(deposit(2, 1))
    redis_client.set(EPOCH, "another")
    assert audits.run() == {}


def test_an_empty_cache_passes(audits: Audits) -> None:
    assert audits.run() == {}
