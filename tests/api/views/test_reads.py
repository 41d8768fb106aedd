"""A read that begins after a write was answered sees it, cached or not; and a hit costs one round trip to Redis."""

import functools
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from models.cache import wallet_cache
from models.cache.wallet_cache import ENTRIES, Miss, WalletCache
from models.redis_line.line import Script
from observe import metrics
from ops.local.servers import RedisServer
from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    accept,
    answer,
    balance_of,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.server import Gunicorn, gunicorn
from tests.api.waiters import wait_for
from tests.conftest import ADMIN_PASSWORD
from tests.models.cache.caching import kept
from tests.proxy import CountingProxy, TcpProxy

PAGES = (
    BALANCE,
    HISTORY,
    f"{HISTORY}?page=2&page_size=2",
    f"{HISTORY}?page_size=2",
    f"{HISTORY}?type=3",
    f"{HISTORY}?type=1&page_size=1&page=2",
    f"{HISTORY}?cursor=3",
)
UNTHROTTLED = "1000000/second"


@pytest.fixture
def counted(redis_url: str, redis_client: redis.Redis) -> Iterator[CountingProxy]:
    """A proxy before an empty Redis that counts."""
    del redis_client
    with CountingProxy.before(redis_url) as proxy:
        yield proxy


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may hang and die."""
    with RedisServer(tmp_path / "redis") as server:
        yield server
        server.send(signal.SIGCONT)


def cache_of(app: Flask) -> WalletCache:
    found: WalletCache = app.extensions["wallet"].cache
    return found


def warm(client: FlaskClient, *paths: str, user: int = 1) -> None:
    """Read until it is cached, and the cache is believed."""

    def hits() -> float:
        return float(metrics.cache_reads["hit"]._value.get())

    def is_cached(path: str) -> bool:
        before = hits()
        answer(get(client, path, user=user))
        return hits() > before

    for path in paths:
        wait_for(functools.partial(is_cached, path))


def read_all(client: FlaskClient, user: int) -> dict[str, Any]:
    return {path: answer(get(client, path, user=user)) for path in PAGES}


@pytest.mark.parametrize("rate_limit", [UNTHROTTLED, "off"])
@pytest.mark.parametrize("path", [BALANCE, HISTORY])
def test_a_hit_is_one_round_trip_to_redis_and_asks_postgresql_nothing(
    make_app: AppMaker, counted: CountingProxy, postgres_proxy: TcpProxy, path: str, rate_limit: str
) -> None:
    app = make_app(redis_url=counted.url, database_url=postgres_proxy.url, rate_limit=rate_limit)
    client = app.test_client()
    fund(client, 1)
    warm(client, path)
    expected = get(client, path).data
    postgres_proxy.hold()
    counted.sent.clear()
    try:
        assert {get(client, path).data for _ in range(20)} == {expected}
    finally:
        postgres_proxy.resume()
    assert counted.questions() == [1 if rate_limit == "off" else 2] * 20


def test_what_is_not_cached_is_asked_for_and_filled_in_two_round_trips(
    make_app: AppMaker, counted: CountingProxy
) -> None:
    client = make_app(redis_url=counted.url, rate_limit=UNTHROTTLED).test_client()
    fund(client, 1)
    warm(client, BALANCE)
    counted.sent.clear()
    answer(get(client, HISTORY))
    assert counted.questions() == [2, 1]


def test_a_time_to_live_of_zero_asks_redis_for_no_read(make_app: AppMaker, counted: CountingProxy) -> None:
    client = make_app(redis_url=counted.url, cache_ttl=0, rate_limit="off").test_client()
    fund(client, 1)
    assert [balance_of(client, 1) for _ in range(3)] == [10_000] * 3
    assert counted.sent == []


def test_a_cache_with_a_redis_of_its_own_leaves_the_queues_alone(
    make_app: AppMaker, redis_client: redis.Redis, own_redis: RedisServer
) -> None:
    client = make_app(cache_redis_url=own_redis.url, rate_limit="1/minute;burst=100").test_client()
    fund(client, 1)
    warm(client, *PAGES)
    with redis.Redis.from_url(own_redis.url) as own_client:
        assert own_client.exists(f"{ENTRIES}1")
        assert list(own_client.scan_iter("*token-bucket*")) == []
    assert list(redis_client.scan_iter("wallet:cache:*")) == []
    assert list(redis_client.scan_iter("*token-bucket*"))
    answer(post(client, DEPOSIT, {"amount": 5}))
    assert balance_of(client, 1) == 10_005


def test_pages_sizes_types_and_cursors_are_cached_each_by_itself_and_say_the_same_as_uncached(
    make_app: AppMaker, redis_client: redis.Redis
) -> None:
    client, uncached = make_app().test_client(), make_app(cache_ttl=0).test_client()
    fund(client, 1, 2)
    for amount in range(1, 6):
        answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": amount}))
    warm(client, *PAGES)
    assert read_all(client, 1) == read_all(uncached, 1)
    assert len(redis_client.hkeys(f"{ENTRIES}1")) == len(PAGES) + 2


def deposit(client: FlaskClient, _: Callable[[str], None]) -> None:
    answer(post(client, DEPOSIT, {"amount": 67}))


def withdraw(client: FlaskClient, _: Callable[[str], None]) -> None:
    answer(post(client, WITHDRAW, {"amount": 67}))


def transfer(client: FlaskClient, _: Callable[[str], None]) -> None:
    answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": 67}))


def transfer_later(client: FlaskClient, settle: Callable[[str], None]) -> None:
    settle(accept(client))


WRITES = {"deposit": deposit, "withdraw": withdraw, "transfer/v1": transfer, "transfer/v2": transfer_later}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_after_every_kind_of_write_every_read_is_new(
    make_app: AppMaker, redis_client: redis.Redis, settle: Callable[[str], None], write: Callable[..., None]
) -> None:
    client, neighbour = (make_app(rate_limit=UNTHROTTLED).test_client() for _ in range(2))
    uncached = make_app(cache_ttl=0, rate_limit="off").test_client()
    fund(client, 1, 2, 3)
    answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": 5}))
    for user in (1, 2, 3):
        warm(client, *PAGES, user=user)
    untouched = redis_client.hgetall(f"{ENTRIES}3")
    write(client, settle)
    for user in (1, 2):
        expected = read_all(uncached, user)
        assert read_all(neighbour, user) == expected
        assert read_all(client, user) == expected
        assert read_all(client, user) == expected
    assert redis_client.hgetall(f"{ENTRIES}3") == untouched


def test_a_dead_letter_that_was_requeued_and_settled_is_seen(
    make_app: AppMaker, redis_client: redis.Redis, settle: Callable[[str], None], bury: Callable[[str], None]
) -> None:
    del redis_client
    client = make_app().test_client()
    fund(client, 1, 2)
    job_id = accept(client)
    bury(job_id)
    for user in (1, 2):
        warm(client, *PAGES, user=user)
    answer(post(client, f"/api/dead-letters/v1/{job_id}/requeue", {}, user=None, headers={"Authorization": ADMIN}))
    assert (balance_of(client, 1), balance_of(client, 2)) == (10_000, 10_000)
    settle(job_id)
    assert (balance_of(client, 1), balance_of(client, 2)) == (9_933, 10_067)


def test_a_refused_write_evicts_nothing(make_app: AppMaker, redis_client: redis.Redis) -> None:
    client = make_app().test_client()
    fund(client, 1, 2)
    warm(client, *PAGES)
    held = redis_client.hgetall(f"{ENTRIES}1")
    for path in (TRANSFER, TRANSFER_LATER):
        problem(post(client, path, {"destination_user_id": 2, "amount": 10_001}), "balance_insufficient")
    problem(post(client, WITHDRAW, {"amount": 10_001}), "balance_insufficient")
    assert redis_client.hgetall(f"{ENTRIES}1") == held


def test_a_user_without_a_wallet_is_never_cached(make_app: AppMaker, redis_client: redis.Redis) -> None:
    client = make_app().test_client()
    fund(client, 2)
    warm(client, BALANCE, user=2)
    for path in PAGES:
        problem(get(client, path), "wallet_not_found")
        problem(get(client, path), "wallet_not_found")
    assert not redis_client.exists(f"{ENTRIES}1")
    fund(client, 1, amount=5)
    assert balance_of(client, 1) == 5


@pytest.mark.parametrize("rate_limit", [UNTHROTTLED, "off"])
def test_without_redis_reads_come_from_postgresql(
    make_app: AppMaker, redis_proxy: TcpProxy, redis_client: redis.Redis, engine: Engine, rate_limit: str
) -> None:
    del redis_client
    client = make_app(redis_url=redis_proxy.url, rate_limit=rate_limit).test_client()
    fund(client, 1)
    warm(client, *PAGES)
    redis_proxy.refuse()
    answer(post(client, DEPOSIT, {"amount": 5}))
    assert kept(engine) == {1: 2}
    assert [balance_of(client, 1) for _ in range(5)] == [10_005] * 5
    redis_proxy.refuse(refusing=False)
    wait_for(lambda: balance_of(client, 1) == 10_005 and not kept(engine))
    warm(client, BALANCE)
    assert balance_of(client, 1) == 10_005


# --- the classic race: a reader that holds an old snapshot and fills late


def stale_reads(app: Flask, *, rounds: int, reads: int) -> int:
    """Poison the cache around each of many writes, and count reads afterwards that do not see them."""
    client, stale = app.test_client(), 0
    cache, history = cache_of(app), app.extensions["wallet"].history
    fund(client, 1)
    warm(client, BALANCE)
    for number in range(1, rounds + 1):
        found = cache.look(1, "balance")
        if not isinstance(found, Miss):
            cache.evict({1: number})
            found = cache.look(1, "balance")
        old = history.get_balance(1)
        answer(post(client, DEPOSIT, {"amount": 1}))
        if isinstance(found, Miss):
            cache.fill(1, "balance", found, old.version, b'{"balance":%d}' % old.cents)
        stale += sum(balance_of(client, 1) != 10_000 + number for _ in range(reads))
    return stale


def test_none_of_1200_reads_between_readers_that_fill_late_is_stale(
    make_app: AppMaker, redis_client: redis.Redis
) -> None:
    del redis_client
    assert stale_reads(make_app(rate_limit=UNTHROTTLED), rounds=300, reads=4) == 0


def test_without_the_fence_there_would_be_stale_reads(
    make_app: AppMaker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis_client
    whole = wallet_cache.FILL.text
    monkeypatch.setattr(wallet_cache, "FILL", Script(whole.replace("fence and tonumber(fence) > version", "false")))
    assert wallet_cache.FILL.text != whole
    assert stale_reads(make_app(rate_limit=UNTHROTTLED), rounds=20, reads=4) > 0


# --- processes, and a Redis that hangs or dies


@pytest.fixture
def servers(tmp_path: Path, service_database_url: str, own_redis: RedisServer, engine: Engine) -> Iterator[Gunicorn]:
    """Two gunicorn processes behind one socket, on a Redis of the test's own."""
    del engine
    with gunicorn(
        tmp_path / "api.log",
        DATABASE_URL=service_database_url,
        REDIS_URL=own_redis.url,
        ADMIN_PASSWORD=ADMIN_PASSWORD,
        API_PROCESSES="2",
        RATE_LIMIT=UNTHROTTLED,
    ) as server:
        assert server.move(DEPOSIT, {"amount": 10_000}).status == 200
        yield server


def balance_at(server: Gunicorn) -> int:
    found: int = server.get(BALANCE).json["balance"]
    return found


def read_warm(server: Gunicorn) -> None:
    """Read until both processes must have read and believe the cache."""
    for _ in range(40):
        assert balance_at(server) == 10_000


def outage(server: Gunicorn, own_redis: RedisServer, begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Write while Redis is away, and read from both processes from before it is back until well after."""
    read_warm(server)
    begin()
    paid = server.move(DEPOSIT, {"amount": 5})
    assert (paid.status, paid.json["balance"]) == (200, 10_005)
    with ThreadPoolExecutor(4) as pool:
        during = pool.submit(lambda: [balance_at(server) for _ in range(20)])
        end()
        after = [pool.submit(lambda: [balance_at(server) for _ in range(150)]) for _ in range(4)]
        seen = {*during.result(), *(each for reads in after for each in reads.result())}
    assert seen == {10_005}

    def is_cached_again() -> bool:
        assert balance_at(server) == 10_005
        with redis.Redis.from_url(own_redis.url) as client:
            return bool(client.exists(f"{ENTRIES}1"))

    wait_for(is_cached_again)
    assert {balance_at(server) for _ in range(40)} == {10_005}


def test_a_redis_that_hangs_during_a_deposit_and_goes_on_with_its_old_data_causes_no_stale_read(
    servers: Gunicorn, own_redis: RedisServer, engine: Engine
) -> None:
    outage(servers, own_redis, lambda: own_redis.send(signal.SIGSTOP), lambda: own_redis.send(signal.SIGCONT))
    wait_for(lambda: not kept(engine))


def test_a_redis_that_is_killed_and_started_again_with_its_old_data_causes_no_stale_read(
    servers: Gunicorn, own_redis: RedisServer, engine: Engine
) -> None:
    outage(servers, own_redis, own_redis.kill, own_redis.start)
    wait_for(lambda: not kept(engine))


def test_a_redis_that_is_killed_and_back_at_once_causes_no_stale_read(
    servers: Gunicorn, own_redis: RedisServer
) -> None:
    read_warm(servers)
    for number in range(1, 4):
        own_redis.kill()
        with ThreadPoolExecutor(1) as pool:
            back = pool.submit(own_redis.start)
            paid = servers.move(DEPOSIT, {"amount": 1})
            assert paid.json["balance"] == 10_000 + number
            assert {balance_at(servers) for _ in range(30)} == {10_000 + number}
            back.result()
        assert {balance_at(servers) for _ in range(30)} == {10_000 + number}


def test_emptying_redis_at_any_time_causes_no_stale_read(servers: Gunicorn, own_redis: RedisServer) -> None:
    read_warm(servers)
    with redis.Redis.from_url(own_redis.url) as client, ThreadPoolExecutor(4) as pool:
        for number in range(1, 31):
            reads = [pool.submit(balance_at, servers) for _ in range(3)]
            flush = pool.submit(client.flushall)
            assert servers.move(DEPOSIT, {"amount": 1}).status == 200
            assert balance_at(servers) == 10_000 + number
            assert {each.result() for each in reads} <= {10_000 + number - 1, 10_000 + number}
            flush.result()
            assert balance_at(servers) == 10_000 + number


def test_the_pages_of_the_books_agree_with_the_cache_at_the_end(
    make_app: AppMaker, redis_client: redis.Redis, engine: Engine
) -> None:
    del redis_client
    client = make_app(rate_limit=UNTHROTTLED).test_client()
    fund(client, 1, 2)
    for amount in range(1, 40):
        answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": amount}))
        assert balance_of(client, 1) == answer(get(client, HISTORY))["statement_balance"]
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, balance FROM wallets"))
        assert {row.id: row.balance for row in rows} == {user: balance_of(client, user) for user in (1, 2)}
