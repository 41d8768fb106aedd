"""Whoever settles a transfer drops what is cached of its wallets: before the commit, after it, or a little later."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy import Engine

from jobs.relay import Relay
from jobs.retries import RetryPolicy
from jobs.rq.backlog import RqBacklog
from jobs.settler import Settler
from models.cache.kept_evictions import KeptEvictions
from models.cache.wallet_cache import ENTRIES, FENCE, Eviction, Miss, WalletCache
from models.ledger.history import History
from ops.local.processes import wait_for
from tests.jobs.backlog import OPENING_CENTS, accept, are_final, backlog, kill_off
from tests.jobs.conftest import WorkerStarter
from tests.jobs.workers import kills
from tests.models.cache.caching import FIELD, cache_at, hit, kept, missed
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

EVICT_AGAIN = "models.cache.wallet_cache:WalletCache.evict_again"


@pytest.fixture
def cache(redis_client: redis.Redis, redis_url: str, books: Engine) -> Iterator[WalletCache]:
    """The cache of a process that reads, with the balances of wallets 1 to 3 in it."""
    del redis_client
    with cache_at(redis_url, books) as cache:
        for wallet_id in (1, 2, 3):
            read(cache, books, wallet_id)
        yield cache


def read(cache: WalletCache, engine: Engine, wallet_id: int) -> int:
    """Read a balance as the API does."""
    found = cache.look(wallet_id, FIELD)
    if isinstance(found, bytes):
        return int(found)
    balance = History(engine).get_balance(wallet_id)
    if isinstance(found, Miss):
        cache.fill(wallet_id, FIELD, found, balance.version, b"%d" % balance.cents)
    return balance.cents


def assert_moved(cache: WalletCache, engine: Engine, cents: int) -> None:
    """So much has gone from wallet 1 to wallet 2, and whoever reads sees it; wallet 3 was left alone."""
    for _ in range(2):
        balances = [read(cache, engine, wallet_id) for wallet_id in (1, 2)]
        assert balances == [OPENING_CENTS - cents, OPENING_CENTS + cents]
    assert hit(cache, 3) == b"%d" % OPENING_CENTS


@contextmanager
def settler_at(url: str, engine: Engine, policy: RetryPolicy) -> Iterator[tuple[Settler, WalletCache]]:
    with cache_at(url, engine) as cache:
        yield Settler(engine, policy, cache), cache


class Noting(WalletCache):
    """A cache that notes when it is told, and whether the transfers were final then."""

    def __init__(self, cache: WalletCache, engine: Engine, ids: list[int]) -> None:
        self.cache, self.engine, self.ids = cache, engine, ids
        self.told: list[tuple[str, bool, Mapping[int, int]]] = []

    def evict(self, versions: Mapping[int, int]) -> Eviction:
        self.told.append(("evict", are_final(self.engine, self.ids), dict(versions)))
        return self.cache.evict(versions)

    def evict_again(self, eviction: Eviction) -> None:
        self.told.append(("evict again", are_final(self.engine, self.ids), dict(eviction.versions)))
        self.cache.evict_again(eviction)


def test_a_batch_evicts_all_its_wallets_before_its_commit_and_after_it(
    cache: WalletCache, books: Engine, redis_url: str, policy: RetryPolicy
) -> None:
    ids = accept(books, 5)
    with cache_at(redis_url, books) as own:
        noting = Noting(own, books, ids)
        Settler(books, policy, noting).settle(ids)
    versions = {1: 6, 2: 6}
    assert noting.told == [("evict", False, versions), ("evict again", True, versions)]
    assert_moved(cache, books, 5)


def test_a_batch_that_was_settled_before_evicts_nothing(
    cache: WalletCache, books: Engine, redis_url: str, redis_client: redis.Redis, policy: RetryPolicy
) -> None:
    ids = accept(books, 1)
    with settler_at(redis_url, books, policy) as (settler, _):
        settler.settle(ids)
        assert_moved(cache, books, 1)
        held = redis_client.hgetall(f"{ENTRIES}1")
        settler.settle(ids)
    assert redis_client.hgetall(f"{ENTRIES}1") == held


def test_a_dead_letter_that_is_reopened_and_settled_is_seen(
    cache: WalletCache, books: Engine, redis_url: str, policy: RetryPolicy
) -> None:
    ids = accept(books, 1)
    kill_off(books, ids)
    with settler_at(redis_url, books, policy) as (settler, _):
        dead = settler.settle(ids).dead
        assert_moved(cache, books, 0)
        settler.reopen(dead)
        settler.settle(ids)
    assert_moved(cache, books, 1)


def test_a_batch_that_cannot_reach_redis_keeps_its_evictions_and_a_pass_of_the_relay_does_them(
    *,
    cache: WalletCache,
    books: Engine,
    redis_client: redis.Redis,
    redis_url: str,
    redis_proxy: TcpProxy,
    policy: RetryPolicy,
) -> None:
    ids = accept(books, 3)
    redis_proxy.refuse()
    with settler_at(redis_proxy.url, books, policy) as (settler, _):
        assert len(settler.settle(ids).outcomes) == 3
    # Cut off was the worker alone: the contract's one exception, for as long as the relay takes.
    assert kept(books) == {1: 4, 2: 4}
    assert hit(cache, 1) == b"%d" % OPENING_CENTS
    with cache_at(redis_url, books) as relays:
        Relay(RqBacklog(redis_client, books), books, relays).run_once()
    assert kept(books) == {}
    assert redis_client.get(f"{FENCE}1") == b"4"
    assert_moved(cache, books, 3)


def test_a_relay_whose_cache_is_away_relays_all_the_same(
    books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy
) -> None:
    ids = accept(books, 3)
    KeptEvictions(books, lambda _: None).keep({1: 2})
    redis_proxy.refuse()
    with cache_at(redis_proxy.url, books) as cut_off:
        assert Relay(RqBacklog(redis_client, books), books, cut_off).run_once() == len(ids)
    assert kept(books) == {1: 2}


@pytest.mark.parametrize("entry", ["worker", "rq"])
def test_a_worker_of_either_kind_evicts(
    cache: WalletCache, books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, entry: str
) -> None:
    ids = backlog(books, redis_client, 3)
    process = start_worker(entry=entry)
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), process.log.read_text()
    # Evicted before the commit, so from the commit on nobody sees what was before.
    assert_moved(cache, books, 3)


def test_a_worker_killed_just_after_its_commit_leaves_nothing_that_is_over(
    cache: WalletCache, books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    assert (hit(cache, 1), hit(cache, 2)) == (b"%d" % OPENING_CENTS, b"%d" % OPENING_CENTS)
    late = missed(cache, 1, "page")
    ids = backlog(books, redis_client, 3)
    start_worker(kills(EVICT_AGAIN, "before")).wait_until_killed()
    assert are_final(books, ids)
    # Nor can what was read before be filled any more.
    assert not cache.fill(1, "page", late, 1, b"old")
    assert_moved(cache, books, 3)


def test_a_worker_whose_cache_refuses_settles_and_its_relay_does_the_evictions_when_it_is_back(
    cache: WalletCache, books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    redis_proxy.refuse()
    ids = backlog(books, redis_client, 3)
    process = start_worker(CACHE_REDIS_URL=redis_proxy.url)
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), process.log.read_text()
    assert kept(books) == {1: 4, 2: 4}
    redis_proxy.refuse(refusing=False)
    assert wait_for(lambda: not kept(books), PATIENCE_S)
    assert_moved(cache, books, 3)
