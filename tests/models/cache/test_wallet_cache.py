"""What is cached, for how long, and what is refused; what becomes of evictions that Redis does not take.

The interleavings are gone through in test_cache_model.py, and when a process may believe the cache in
test_pulse.py.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest
import redis
from sqlalchemy import Engine, text

from models.cache.pulse import EPOCH, EVICTION_TIMEOUT_S, MOST_MEMORY, SERVER
from models.cache.wallet_cache import (
    ENTRIES,
    FENCE,
    LATEST_FILL_S,
    MOST_BYTES,
    MOST_FIELDS,
    Eviction,
    Miss,
    WalletCache,
)
from models.ledger.history import History
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from ops.local.servers import RedisServer
from tests import nursery
from tests.models.cache.caching import FIELD, LONGEST_TRANSACTION_S, cache_at, cached_keys, hit, kept, missed, put
from tests.models.ledger.ordering import deposit
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import CountingProxy, TcpProxy
from tests.small_redis import ROOMY, fill_memory

WALLET = 7


@pytest.fixture
def cache(redis_client: redis.Redis, redis_url: str, engine: Engine) -> Iterator[WalletCache]:
    """A cache on an empty Redis."""
    del redis_client
    with cache_at(redis_url, engine) as cache:
        yield cache


def entries_of(client: redis.Redis, wallet_id: int = WALLET) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", client.hgetall(f"{ENTRIES}{wallet_id}"))


def test_what_was_filled_is_found_by_its_field_and_its_wallet(cache: WalletCache) -> None:
    assert put(cache, WALLET, 3, b'{"balance": 5}')
    assert put(cache, WALLET, 3, b'{"page": 1}', "page:1")
    assert hit(cache, WALLET) == b'{"balance": 5}'
    assert hit(cache, WALLET, "page:1") == b'{"page": 1}'
    missed(cache, WALLET, "page:2")
    missed(cache, WALLET + 1)


def test_every_key_has_the_wallets_id_in_it_and_one_eviction_leaves_nothing_to_be_read(
    cache: WalletCache, redis_client: redis.Redis
) -> None:
    for number in range(5):
        put(cache, WALLET, 3, b"{}", f"page:{number}")
    put(cache, WALLET + 1, 9)
    assert cached_keys(redis_client, WALLET) == {f"{ENTRIES}{WALLET}"}
    assert cache.evict({WALLET: 4}).kept == {}
    assert cached_keys(redis_client, WALLET) == {f"{FENCE}{WALLET}"}
    assert redis_client.get(f"{FENCE}{WALLET}") == b"4"
    assert hit(cache, WALLET + 1) == b"{}"


def test_one_version_at_a_time_is_held_and_the_newer_one_wins(cache: WalletCache) -> None:
    old, new = missed(cache, WALLET, "a"), missed(cache, WALLET, "b")
    put(cache, WALLET, 3, b"old", "c")
    assert cache.fill(WALLET, "b", new, 4, b"new")
    assert not cache.fill(WALLET, "a", old, 3, b"old")
    missed(cache, WALLET, "c")
    assert hit(cache, WALLET, "b") == b"new"


def test_what_is_older_than_the_fence_is_refused_and_what_is_as_new_is_stored(cache: WalletCache) -> None:
    noted = missed(cache, WALLET)
    cache.evict({WALLET: 4})
    assert not cache.fill(WALLET, FIELD, noted, 3, b"{}")
    assert cache.fill(WALLET, FIELD, noted, 4, b"{}")


def test_a_fence_is_never_lowered(cache: WalletCache, redis_client: redis.Redis) -> None:
    cache.evict({WALLET: 9})
    cache.evict({WALLET: 8, 10: 100, 9: 1})
    assert redis_client.mget(f"{FENCE}{WALLET}", f"{FENCE}10", f"{FENCE}9") == [b"9", b"100", b"1"]


def test_versions_up_to_two_to_the_fifty_third_are_told_apart(cache: WalletCache) -> None:
    most = 2**53 - 1
    noted = missed(cache, WALLET)
    cache.evict({WALLET: most})
    assert not cache.fill(WALLET, FIELD, noted, most - 1, b"{}")
    assert cache.fill(WALLET, FIELD, noted, most, b"{}")


def test_a_wallet_has_a_bounded_number_of_fields(cache: WalletCache, redis_client: redis.Redis) -> None:
    taken = [put(cache, WALLET, 1, b"{}", f"page:{number}") for number in range(MOST_FIELDS + 1)]
    assert taken == [True] * MOST_FIELDS + [False]
    assert len(entries_of(redis_client)) == MOST_FIELDS + 2


def test_a_payload_that_is_too_large_is_not_stored(cache: WalletCache, redis_client: redis.Redis) -> None:
    assert not put(cache, WALLET, 1, b"x" * (MOST_BYTES + 1))
    assert entries_of(redis_client) == {}
    assert put(cache, WALLET, 1, b"x" * MOST_BYTES)


def test_the_time_to_live_counts_from_the_first_field_on(cache: WalletCache, redis_client: redis.Redis) -> None:
    put(cache, WALLET, 1, b"{}", "a")
    key = f"{ENTRIES}{WALLET}"
    assert 299_000 < redis_client.pttl(key) <= 300_000
    redis_client.pexpire(key, 50_000)
    put(cache, WALLET, 1, b"{}", "b")
    assert redis_client.pttl(key) <= 50_000
    put(cache, WALLET, 2, b"{}", "c")
    assert redis_client.pttl(key) > 299_000


def test_what_has_lived_its_time_is_read_anew(redis_client: redis.Redis, redis_url: str, engine: Engine) -> None:
    with cache_at(redis_url, engine, ttl_s=1) as cache:
        put(cache, WALLET, 1)
        assert wait_for(lambda: not entries_of(redis_client), PATIENCE_S)
        missed(cache, WALLET)


@pytest.mark.parametrize("ttl_s", [1, 300, 86_400])
def test_the_fence_outlives_the_longest_transaction_whatever_the_time_to_live(
    redis_client: redis.Redis, redis_url: str, engine: Engine, ttl_s: int
) -> None:
    with cache_at(redis_url, engine, ttl_s=ttl_s) as cache:
        cache.evict({WALLET: 4})
        lives_s = redis_client.pttl(f"{FENCE}{WALLET}") / 1000
    # A reader may begin with the last look at the old row, just before the commit, and fill so much later.
    assert LONGEST_TRANSACTION_S + LATEST_FILL_S < lives_s < LONGEST_TRANSACTION_S + LATEST_FILL_S + 2


def test_a_time_to_live_of_zero_asks_redis_nothing(engine: Engine, redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    with cache_at(redis_proxy.url, engine, ttl_s=0) as cache:
        assert cache.look(WALLET, FIELD) is None
        assert cache.evict({WALLET: 4}).kept == {}
        cache.evict_again(Eviction({WALLET: 4}))
        assert cache.pulse._thread is None
    assert kept(engine) == {}


def test_to_evict_nothing_asks_redis_nothing(engine: Engine, redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    with cache_at(redis_proxy.url, engine) as cache:
        assert cache.evict({}).kept == {}
        cache.evict_again(Eviction({}))
        assert cache.pulse._thread is None


def test_what_is_filled_too_late_by_redis_clock_is_refused(cache: WalletCache) -> None:
    noted = missed(cache, WALLET)
    microseconds = int(noted.noted)
    late = Miss(noted.epoch, str(microseconds - int(LATEST_FILL_S * 1_000_000)).encode())
    assert not cache.fill(WALLET, FIELD, late, 1, b"{}")
    in_time = Miss(noted.epoch, str(microseconds - int(LATEST_FILL_S * 500_000)).encode())
    assert cache.fill(WALLET, FIELD, in_time, 1, b"{}")


def test_when_redis_is_emptied_nothing_noted_before_is_filled(cache: WalletCache, redis_client: redis.Redis) -> None:
    noted = missed(cache, WALLET)
    redis_client.flushdb()
    assert not cache.fill(WALLET, FIELD, noted, 9, b"{}")
    missed(cache, WALLET)
    assert not cache.fill(WALLET, FIELD, noted, 9, b"{}")
    assert put(cache, WALLET, 9)


def test_entries_of_another_epoch_are_none_and_make_room(cache: WalletCache, redis_client: redis.Redis) -> None:
    put(cache, WALLET, 9, b"old", "a")
    redis_client.set(EPOCH, "another")
    noted = missed(cache, WALLET, "a")
    assert noted.epoch == b"another"
    # Redis went back to older data, so the version may be lower than what it then had.
    assert cache.fill(WALLET, "b", noted, 8, b"new")
    missed(cache, WALLET, "a")
    assert hit(cache, WALLET, "b") == b"new"


def test_without_memory_fills_are_refused_evictions_are_done_and_reads_miss(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    with cache_at(small_redis.url, engine) as cache:
        put(cache, WALLET, 1)
        noted, of_another = missed(cache, WALLET, "page"), missed(cache, WALLET + 1)
        fill_memory(small_client)
        assert not cache.fill(WALLET, "page", noted, 1, b"x")
        assert not cache.fill(WALLET + 1, FIELD, of_another, 1, b"x")
        assert hit(cache, WALLET) == b"{}"
        assert cache.evict({WALLET: 2}).kept == {}
        assert small_client.get(f"{FENCE}{WALLET}") == b"2"
        missed(cache, WALLET)
        assert kept(engine) == {}


def test_a_cache_without_memory_and_without_an_epoch_misses(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    with cache_at(small_redis.url, engine) as cache:
        missed(cache, WALLET)
        small_client.flushall()
        fill_memory(small_client)
        noted = missed(cache, WALLET)
        small_client.config_set("maxmemory", ROOMY)
        assert not cache.fill(WALLET, FIELD, noted, 1, b"{}")
        assert put(cache, WALLET, 1)


def test_a_full_redis_that_is_met_for_the_first_time_is_believed_and_evicts(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    """Having been restarted it may have gone back to older data, so its epoch has to be replaced, memory or not."""
    with cache_at(small_redis.url, engine) as cache:
        assert put(cache, WALLET, 1)
        epoch = small_client.get(EPOCH)
    small_client.set(SERVER, "the one of before")
    fill_memory(small_client)
    with cache_at(small_redis.url, engine) as cache:
        missed(cache, WALLET)
        assert small_client.get(EPOCH) not in (None, epoch)
        assert not cache.evict({WALLET: 2}).is_kept
        assert kept(engine) == {}


def test_above_a_share_of_the_memory_nothing_is_filled_so_that_the_queue_finds_room(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    with cache_at(small_redis.url, engine) as cache:
        assert put(cache, WALLET, 1)
        used = int(small_client.info("memory")["used_memory"])
        small_client.config_set("maxmemory", int(used / MOST_MEMORY * 0.9))
        assert wait_for(lambda: not cache.pulse.has_room, PATIENCE_S)
        assert not put(cache, WALLET, 1, b"{}", "page")
        assert hit(cache, WALLET) == b"{}"
        small_client.config_set("maxmemory", ROOMY)
        assert wait_for(lambda: cache.pulse.has_room, PATIENCE_S)
        assert put(cache, WALLET, 1, b"{}", "page")


@pytest.mark.parametrize("refuses", ["refused", "hanging"])
def test_an_eviction_that_cannot_reach_redis_is_kept_and_not_before_every_reader_must_have_noticed(
    *, redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine, snowflake: Snowflake, refuses: str
) -> None:
    del redis_client
    with cache_at(redis_proxy.url, engine) as cache:
        orders = Orders(engine, snowflake, cache)
        orders.execute(deposit(WALLET, 10))
        if refuses == "refused":
            redis_proxy.refuse()
        else:
            redis_proxy.hold()
        began = time.monotonic()
        orders.execute(deposit(WALLET, 10))
        assert time.monotonic() - began >= EVICTION_TIMEOUT_S
        assert kept(engine) == {WALLET: 2}
        # It knows now: the next one waits for nothing, and the newest version is what is kept.
        assert cache.pulse.is_away()
        orders.execute(deposit(WALLET, 10))
        assert kept(engine) == {WALLET: 3}


def test_a_redis_that_is_back_while_a_writer_insists_is_told(
    redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine
) -> None:
    with cache_at(redis_proxy.url, engine) as cache:
        put(cache, WALLET, 1)
        redis_proxy.refuse()
        failures = threading.Event()
        tell = cache._tell

        def told(versions: dict[int, int]) -> tuple[int, bytes | None]:
            try:
                return tell(versions)
            except redis.RedisError:
                failures.set()
                raise

        cache._tell = told  # type: ignore[method-assign, assignment]

        def come_back() -> None:
            failures.wait(PATIENCE_S)
            redis_proxy.refuse(refusing=False)

        back = threading.Thread(target=come_back)
        back.start()
        assert cache.evict({WALLET: 2}).kept == {}
        back.join()
        assert failures.is_set()
        assert redis_client.get(f"{FENCE}{WALLET}") == b"2"
        assert kept(engine) == {}


def test_a_redis_that_may_only_be_read_is_not_believed(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    with cache_at(small_redis.url, engine) as cache, cache_at(small_redis.url, engine) as writer:
        put(cache, WALLET, 1)
        small_client.replicaof("127.0.0.1", 1)
        try:
            assert writer.evict({WALLET: 2}).kept == {WALLET: 2}
            # What it has is over, and Redis would say it to anyone who asked.
            assert entries_of(small_client)
            assert cache.look(WALLET, FIELD) is None
        finally:
            small_client.replicaof("NO", "ONE")


def test_what_cannot_be_evicted_after_the_commit_is_kept(
    redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine
) -> None:
    del redis_client
    with cache_at(redis_proxy.url, engine) as cache:
        redis_proxy.refuse()
        cache.evict_again(Eviction({WALLET: 4, 3: 2}))
    assert kept(engine) == {WALLET: 4, 3: 2}


def test_after_the_commit_redis_is_asked_once_whether_it_still_knows(
    redis_client: redis.Redis, redis_url: str, engine: Engine
) -> None:
    with CountingProxy.before(redis_url) as proxy, cache_at(proxy.url, engine) as cache:
        eviction = cache.evict({WALLET: 4, 3: 2})
        again = cache.evict({WALLET: 5, 3: 3})  # on the connection that the first one has made
        before = redis_client.get(f"{FENCE}{WALLET}")
        cache.evict_again(again)
        assert redis_client.get(f"{FENCE}{WALLET}") == before == b"5"
        redis_client.delete(f"{FENCE}{WALLET}")
        cache.evict_again(again)
        assert redis_client.get(f"{FENCE}{WALLET}") is None
        # Whoever has made a connection meanwhile may have met another server.
        cache.evict_again(eviction)
        assert redis_client.get(f"{FENCE}{WALLET}") == b"4"


@pytest.mark.parametrize("loss", ["flushed", "restarted"])
def test_a_redis_that_may_have_lost_something_since_is_told_again(
    redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine, loss: str
) -> None:
    with cache_at(redis_proxy.url, engine) as cache:
        assert isinstance(cache.look(WALLET, FIELD), Miss)  # there is an epoch
        cache.evict({WALLET: 3})
        eviction = cache.evict({WALLET: 4})
        if loss == "flushed":
            redis_client.flushdb()
        else:
            redis_client.delete(f"{FENCE}{WALLET}")  # as if it had come back with what it had a second ago
            redis_proxy.break_all()
        cache.evict_again(eviction)
        assert redis_client.get(f"{FENCE}{WALLET}") == b"4"


def test_a_rolled_back_posting_keeps_no_eviction(
    redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine, snowflake: Snowflake
) -> None:
    del redis_client
    with cache_at(redis_proxy.url, engine) as cache:
        redis_proxy.refuse()
        with engine.begin() as connection:
            connection.execute(text(_REFUSING_TRIGGER))
        try:
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is called
                Orders(engine, snowflake, cache).execute(deposit(WALLET, 10))
        finally:
            with engine.begin() as connection:
                connection.execute(text("DROP TRIGGER test_refusal ON entries; DROP FUNCTION test_refusal()"))
    assert kept(engine) == {}


_REFUSING_TRIGGER = """
CREATE FUNCTION test_refusal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER test_refusal BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION test_refusal()
"""


def test_a_writer_killed_just_after_its_commit_leaves_nothing_that_is_over(
    *, cache: WalletCache, redis_client: redis.Redis, redis_url: str, engine: Engine, snowflake: Snowflake
) -> None:
    Orders(engine, snowflake, cache).execute(deposit(WALLET, 10))
    put(cache, WALLET, 1, b"10")
    late = missed(cache, WALLET, "page")
    assert hit(cache, WALLET) == b"10"
    task = {"database_url": engine.url.render_as_string(hide_password=False), "redis_url": redis_url}
    writer = nursery.run([sys.executable, "-m", "tests.models.cache.cache_child", json.dumps(task)], cwd=ROOT)
    assert writer.returncode == -signal.SIGKILL
    assert History(engine).get_balance(WALLET)[:2] == (15, 2)
    missed(cache, WALLET)
    assert not cache.fill(WALLET, "page", late, 1, b"old")
    assert entries_of(redis_client) == {}


def test_a_redis_that_hung_and_goes_on_with_its_old_data_says_nothing_that_is_over(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine, snowflake: Snowflake
) -> None:
    del small_client
    with cache_at(small_redis.url, engine) as reader, cache_at(small_redis.url, engine) as writer:
        orders = Orders(engine, snowflake, writer)
        orders.execute(deposit(WALLET, 10))
        put(reader, WALLET, 1, b"10")
        small_redis.send(signal.SIGSTOP)
        try:
            orders.execute(deposit(WALLET, 10))
            assert reader.look(WALLET, FIELD) is None
        finally:
            small_redis.send(signal.SIGCONT)
        # Not once, from the first answer on until it is believed again.
        seen: list[bytes | Miss | None] = []

        def is_believed() -> bool:
            seen.append(reader.look(WALLET, FIELD))
            return seen[-1] is not None

        assert wait_for(is_believed, PATIENCE_S)
        assert isinstance(seen[-1], Miss)
        assert kept(engine) == {}


def test_a_redis_that_was_killed_and_is_back_between_two_beats_says_nothing_that_is_over(
    small_redis: RedisServer, small_client: redis.Redis, engine: Engine
) -> None:
    with cache_at(small_redis.url, engine) as reader:
        put(reader, WALLET, 1, b"10")
        held = entries_of(small_client)
        assert wait_for(lambda: int(small_client.info("persistence")["aof_pending_bio_fsync"]) == 0, PATIENCE_S)
        # No beat comes in between: the gap is too short for one, so it is the new connection that gives it away.
        with reader.pulse._beating:
            small_redis.kill()
            small_redis.start()
            assert entries_of(small_client) == held
            reader.pulse._heard_at = time.monotonic()
            assert reader.look(WALLET, FIELD) is None
        missed(reader, WALLET)
        assert entries_of(small_client) == held  # still there, of an epoch that is over
