"""When a process may believe the cache, by a clock of the test's own; Redis and PostgreSQL are real."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from models.cache.kept_evictions import KeptEvictions, keeping
from models.cache.pulse import (
    AWAY_S,
    BEAT_S,
    BEAT_TIMEOUT_S,
    EPOCH,
    EVICTION_TIMEOUT_S,
    LONGEST_GAP_S,
    OPEN,
    QUARANTINE_S,
    SERVER,
    Pulse,
)
from models.redis_line.client import CONNECT_TIMEOUT_S, connect_redis
from models.redis_line.line import Command, RedisLine
from ops.local.processes import wait_for
from ops.local.servers import RedisServer
from tests.models.cache.caching import cache_at, kept
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

LONGEST_TRANSACTION_S = 20.0
# What a beat's question takes, of the clock.
TRIP_S = 0.01
A_LITTLE_S = 0.001


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


class Line(RedisLine):
    """A line on which every question takes its time, and something may happen before the answer."""

    def __init__(self, client: redis.Redis, clock: Clock) -> None:
        super().__init__(client, [OPEN])
        self.clock = clock
        self.trip_s = TRIP_S
        self.meanwhile: Callable[[], object] = lambda: None

    def ask(self, *commands: Command) -> list[Any]:
        try:
            return super().ask(*commands)
        finally:
            self.clock.forward(self.trip_s)
            self.meanwhile()


class Beating:
    """A pulse whose beats are the test's."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.clock = Clock()
        self.line = Line(connect_redis(url, answer_timeout_s=BEAT_TIMEOUT_S), self.clock)
        self.told: list[dict[int, int]] = []
        self.kept = KeptEvictions(engine, lambda versions: self.told.append(dict(versions)))
        self.pulse = Pulse(self.line, self.kept, longest_transaction_s=LONGEST_TRANSACTION_S, clock=self.clock)
        self.pulse._thread = threading.current_thread()  # so that no other one is started

    def beat(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.forward(BEAT_S)
            self.pulse.run_once()

    def beat_for(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.beat()

    def recover(self) -> None:
        """Beat until the quarantine is over."""
        self.beat_for(QUARANTINE_S + 2 * BEAT_S)


@pytest.fixture
def beating(redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine) -> Iterator[Beating]:
    """A pulse that believes."""
    del redis_client
    beating = Beating(redis_proxy.url, engine)
    beating.beat()
    assert beating.pulse.believes()
    yield beating
    beating.pulse.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def writer(engine: Engine) -> Iterator[Callable[[dict[int, int]], None]]:
    """A transaction that holds a wallet; called, it keeps evictions and commits."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) VALUES (1)"))
    with engine.connect() as connection:
        connection.execute(text("SELECT id FROM wallets WHERE id = 1 FOR NO KEY UPDATE"))

        def commit(versions: dict[int, int]) -> None:
            connection.exec_driver_sql(keeping(versions))
            connection.commit()

        yield commit


def keep(engine: Engine, versions: dict[int, int]) -> None:
    KeptEvictions(engine, lambda _: None).keep(versions)


def test_the_bounds_are_in_the_order_that_the_reasoning_needs() -> None:
    # A beat, and one that failed, fit into the gap.
    assert BEAT_S + BEAT_TIMEOUT_S < LONGEST_GAP_S
    # Every reader has noticed before a writer gives up.
    assert LONGEST_GAP_S < EVICTION_TIMEOUT_S
    # A writer that began before Redis was back has given up, or has found that it is back, before anybody believes.
    assert CONNECT_TIMEOUT_S + EVICTION_TIMEOUT_S < QUARANTINE_S
    assert AWAY_S < QUARANTINE_S
    # Failing beats follow each other closely enough for a writer to know at any time that Redis is away.
    assert BEAT_S + CONNECT_TIMEOUT_S + BEAT_TIMEOUT_S < AWAY_S


def test_it_believes_as_long_as_it_hears(beating: Beating) -> None:
    for _ in range(50):
        beating.beat()
        assert beating.pulse.believes()


def test_it_does_not_believe_beyond_the_longest_gap(beating: Beating) -> None:
    # The beat was sent a trip before it was answered, and that is when Redis was there for certain.
    beating.clock.forward(LONGEST_GAP_S - 2 * TRIP_S - A_LITTLE_S)
    assert beating.pulse.believes()
    beating.clock.forward(2 * A_LITTLE_S)
    assert not beating.pulse.believes()


def test_an_answer_counts_from_when_its_question_was_sent(beating: Beating) -> None:
    beating.clock.forward(0.4)
    asked_at = beating.clock.now
    beating.clock.forward(0.2)
    assert beating.pulse.believed(asked_at)
    beating.clock.forward(LONGEST_GAP_S - 0.2 - A_LITTLE_S)
    assert beating.pulse.believes()
    beating.clock.forward(2 * A_LITTLE_S)
    assert not beating.pulse.believes()


def test_an_answer_that_comes_after_a_gap_is_not_served(beating: Beating) -> None:
    asked_at = beating.clock.now
    beating.clock.forward(LONGEST_GAP_S + A_LITTLE_S)
    assert not beating.pulse.believed(asked_at)
    # Nor does one that was sent after it bridge the gap.
    assert not beating.pulse.believed(beating.clock.now)
    assert not beating.pulse.believes()


def test_after_a_gap_that_nobody_noticed_the_first_beat_does_not_bridge_it(beating: Beating) -> None:
    beating.clock.forward(LONGEST_GAP_S)
    beating.beat()
    assert not beating.pulse.believes()
    beating.beat()
    beating.beat_for(QUARANTINE_S - 2 * BEAT_S)
    assert not beating.pulse.believes()
    beating.beat(3)
    assert beating.pulse.believes()


def test_a_beat_whose_answer_takes_longer_than_the_gap_ends_the_belief(beating: Beating) -> None:
    beating.line.trip_s = LONGEST_GAP_S
    beating.beat()
    beating.line.trip_s = TRIP_S
    assert not beating.pulse.believes()
    beating.recover()
    assert beating.pulse.believes()


def test_one_failure_ends_the_belief_at_once_and_the_quarantine_begins_when_redis_is_back(beating: Beating) -> None:
    beating.pulse.failed()
    assert not beating.pulse.believes()
    beating.recover()
    assert beating.pulse.believes()


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_redis_that_does_not_answer_is_not_believed_until_it_was_heard_again_for_long_enough(
    beating: Beating, redis_proxy: TcpProxy, fault: str
) -> None:
    if fault == "refuses":
        redis_proxy.refuse()
    else:
        redis_proxy.hold()
    beating.beat()
    assert not beating.pulse.believes()
    redis_proxy.refuse(refusing=False)
    redis_proxy.resume()
    beating.beat_for(QUARANTINE_S - BEAT_S)
    assert not beating.pulse.believes()
    beating.recover()
    assert beating.pulse.believes()


def test_a_process_that_begins_while_redis_is_away_has_a_quarantine_too(
    redis_client: redis.Redis, redis_proxy: TcpProxy, engine: Engine
) -> None:
    del redis_client
    beating = Beating(redis_proxy.url, engine)
    redis_proxy.refuse()
    beating.beat()
    redis_proxy.refuse(refusing=False)
    beating.beat()
    assert not beating.pulse.believes()
    beating.recover()
    assert beating.pulse.believes()
    beating.pulse.close()


def test_a_failure_that_somebody_else_saw_during_a_beat_is_not_undone_by_it(beating: Beating) -> None:
    def give_up() -> None:
        beating.pulse.failed()
        beating.pulse.gave_up()

    beating.line.meanwhile = give_up
    beating.beat()
    beating.line.meanwhile = lambda: None
    assert beating.pulse.is_away()
    assert not beating.pulse.believes()
    assert not beating.pulse.believed(beating.clock.now)
    beating.beat()
    assert not beating.pulse.believes()
    beating.recover()
    assert beating.pulse.believes()


def test_kept_evictions_are_done_before_it_believes(beating: Beating, engine: Engine) -> None:
    beating.pulse.failed()
    keep(engine, {1: 5, 2: 7})
    beating.beat_for(QUARANTINE_S)
    assert beating.told == []
    while not beating.told:
        beating.beat()
        assert not beating.pulse.believes()
    assert [dict(sorted(each.items())) for each in beating.told] == [{1: 5, 2: 7}]
    assert kept(engine) == {}
    beating.beat()
    assert beating.pulse.believes()


def test_a_process_that_begins_does_kept_evictions_first(
    redis_client: redis.Redis, redis_url: str, engine: Engine
) -> None:
    del redis_client
    keep(engine, {1: 5})
    beating = Beating(redis_url, engine)
    beating.beat()
    assert (beating.told, beating.pulse.believes()) == ([{1: 5}], False)
    beating.beat()
    assert beating.pulse.believes()
    beating.pulse.close()


def test_while_postgresql_cannot_be_asked_for_kept_evictions_it_does_not_believe(
    redis_client: redis.Redis, redis_url: str, engine: Engine
) -> None:
    del redis_client
    beating = Beating(redis_url, engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE kept_evictions RENAME TO elsewhere"))
    try:
        beating.beat(3)
        assert not beating.pulse.believes()
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO kept_evictions"))
    beating.beat()
    assert beating.pulse.believes()
    beating.pulse.close()


def test_a_writer_that_has_given_up_and_not_yet_committed_is_waited_for(
    beating: Beating, engine: Engine, writer: Callable[[dict[int, int]], None]
) -> None:
    beating.pulse.failed()
    beating.recover()
    beating.beat(5)
    assert not beating.pulse.believes()
    writer({1: 5})
    beating.beat()
    assert (beating.told, beating.pulse.believes()) == ([{1: 5}], False)
    beating.beat()
    assert beating.pulse.believes()
    assert kept(engine) == {}


def test_a_writer_that_begins_after_the_quarantine_is_not_waited_for(
    beating: Beating, engine: Engine, writer: Callable[[dict[int, int]], None]
) -> None:
    beating.pulse.failed()
    beating.recover()
    with engine.connect() as connection:
        connection.execute(text("UPDATE wallets SET balance = balance WHERE id = 2"))
        writer({})
        beating.beat()
        assert beating.pulse.believes()


def test_who_reads_wallets_is_not_waited_for(beating: Beating, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM wallets"))
        beating.pulse.failed()
        beating.recover()
        assert beating.pulse.believes()


def test_no_writer_is_waited_for_longer_than_a_transaction_can_take(
    beating: Beating, writer: Callable[[dict[int, int]], None]
) -> None:
    del writer
    beating.pulse.failed()
    beating.beat_for(QUARANTINE_S + LONGEST_TRANSACTION_S - BEAT_S)
    assert not beating.pulse.believes()
    beating.beat(5)
    assert beating.pulse.believes()


def test_the_same_server_keeps_its_epoch_and_another_one_gets_a_new_one(
    beating: Beating, redis_client: redis.Redis
) -> None:
    epoch = redis_client.get(EPOCH)
    server = redis_client.get(SERVER)
    assert isinstance(server, bytes)
    assert server.split()[0] == redis_client.info("server")["run_id"].encode()
    beating.pulse.failed()
    beating.recover()
    assert redis_client.get(EPOCH) == epoch
    redis_client.set(SERVER, "another")
    beating.pulse.failed()
    beating.beat()
    assert redis_client.get(EPOCH) not in {epoch, None}


def test_a_new_connection_to_the_same_server_is_believed(beating: Beating, redis_proxy: TcpProxy) -> None:
    other = RedisLine(connect_redis(redis_proxy.url), [])
    beating.pulse.watch(other)
    other.ask(("PING",))
    other.close()
    assert beating.pulse.believes()


@pytest.mark.parametrize("whose", ["another line's", "its own"])
def test_another_server_on_a_new_connection_ends_the_belief_however_short_the_gap(
    beating: Beating, redis_proxy: TcpProxy, own_redis: RedisServer, whose: str
) -> None:
    redis_proxy._upstream = ("127.0.0.1", own_redis.port)
    if whose == "its own":
        (wire,) = beating.line._idle
        redis_proxy.break_all()
        assert wait_for(wire.has_hung_up, PATIENCE_S)
        # Its password is another one, which is the proxy's doing: only the server matters here.
        with redis.Redis.from_url(own_redis.url) as admin:
            admin.config_set("requirepass", _password_in(redis_proxy.url))
        beating.beat()
    else:
        other = RedisLine(connect_redis(own_redis.url), [])
        beating.pulse.watch(other)
        other.ask(("PING",))
        other.close()
    assert not beating.pulse.believes()


def _password_in(url: str) -> str:
    return url.partition("//:")[2].partition("@")[0]


def test_a_server_that_is_replaced_while_it_is_greeted_is_greeted_again(beating: Beating) -> None:
    beating.pulse.failed()
    assert beating.line.meet is not None
    tell = beating.line.meet
    beating.line.meanwhile = lambda: tell(b"# Server\r\nrun_id:another\r\n")
    beating.beat()
    assert beating.pulse._contact is None
    beating.line.meanwhile = lambda: None
    beating.recover()
    assert beating.pulse.believes()


def test_a_writer_trusts_that_redis_is_away_only_while_it_keeps_failing(
    beating: Beating, redis_proxy: TcpProxy
) -> None:
    pulse, clock = beating.pulse, beating.clock
    pulse.failed()
    assert not pulse.is_away()
    pulse.gave_up()
    assert pulse.is_away()
    clock.forward(AWAY_S + A_LITTLE_S)
    assert not pulse.is_away()
    redis_proxy.refuse()
    beating.beat()
    assert pulse.is_away()
    redis_proxy.refuse(refusing=False)
    beating.beat()
    assert not pulse.is_away()
    pulse.failed()
    assert not pulse.is_away()


def test_a_redis_that_may_only_be_read_is_not_heard(own_redis: RedisServer, engine: Engine) -> None:
    beating = Beating(own_redis.url, engine)
    beating.beat()
    assert beating.pulse.believes()
    with redis.Redis.from_url(own_redis.url) as client:
        client.replicaof("127.0.0.1", 1)
        beating.beat()
        assert not beating.pulse.believes()
        client.replicaof("NO", "ONE")
    beating.recover()
    assert beating.pulse.believes()
    beating.pulse.close()


def test_the_first_question_waits_for_the_first_beat_and_starts_the_thread(
    redis_client: redis.Redis, redis_url: str, engine: Engine
) -> None:
    del redis_client
    with cache_at(redis_url, engine) as cache:
        assert not [each for each in threading.enumerate() if each.name == "cache pulse"]
        assert cache.pulse.believes()
        (thread,) = (each for each in threading.enumerate() if each.name == "cache pulse" and each.is_alive())
    assert not thread.is_alive()
    assert not cache.pulse.believes()


def test_a_redis_that_hangs_at_first_is_found_out_when_it_goes_on(own_redis: RedisServer, engine: Engine) -> None:
    own_redis.send(signal.SIGSTOP)
    try:
        with cache_at(own_redis.url, engine) as cache:
            assert not cache.pulse.believes()
            own_redis.send(signal.SIGCONT)
            assert wait_for(cache.pulse.believes, PATIENCE_S)
    finally:
        own_redis.send(signal.SIGCONT)


def test_a_beat_that_breaks_is_followed_by_others(
    redis_client: redis.Redis, redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis_client
    broken = threading.Event()
    run_once = Pulse.run_once

    def break_once(pulse: Pulse) -> None:
        if pulse._thread is threading.current_thread() and not broken.is_set():
            broken.set()
            raise RuntimeError("no beat")
        run_once(pulse)

    monkeypatch.setattr(Pulse, "run_once", break_once)
    with cache_at(redis_url, engine) as cache:
        cache.pulse.believes()
        assert broken.wait(PATIENCE_S)
        heard_at = cache.pulse._heard_at
        assert wait_for(lambda: cache.pulse._heard_at > heard_at, PATIENCE_S)
