"""Ids are never issued twice, whatever processes, clocks and the database do; each of those is forced here."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text, update

from models.errors import Unavailable
from models.schema.tables import snowflake_nodes as nodes
from models.snowflake.ids import MAX_WAIT_MS, ClockMovedBackwards, Snowflake
from models.snowflake.layout import EPOCH_MS, LAST_MS, NODES, Parts, decode, encode, instant_of
from models.snowflake.leases import (
    LEASE_S,
    RETRY_PAUSE_S,
    ClockOutOfRange,
    LeaseUnavailable,
    NodeLease,
    NoFreeNode,
    Reservation,
    SnowflakeError,
)
from tests.models.snowflake.snowflake_child import PATIENCE_S, START_MS, Process
from tests.proxy import TcpProxy

LEASE_MS = round(LEASE_S * 1000)
# The tests' own nodes: the other tests of this run draw their ids from the real ones.
SCHEMA = "snowflake_tests"

instants = st.integers(EPOCH_MS, LAST_MS)
node_ids = st.integers(0, NODES - 1)
sequences = st.integers(0, 4095)


class FakeClock:
    """A wall clock that moves when it is set or waited for."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms
        self.waits_ms: list[int] = []

    def __call__(self) -> int:
        return self.now_ms

    def wait_s(self, seconds: float) -> None:
        self.waits_ms.append(round(seconds * 1000))
        self.now_ms += self.waits_ms[-1]


class FakeUptime:
    """A clock in seconds that moves when it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FixedLease(NodeLease):
    """A lease without a database that never ends: for what concerns the generator alone."""

    def __init__(self, node: int = 5) -> None:
        super().__init__(create_engine("postgresql+psycopg2://"))
        self._fixed = Reservation(
            holder=uuid4(), node=node, floor_ms=0, ceiling_ms=LAST_MS, renew_at_s=float("inf"), ends_at_s=float("inf")
        )

    def reserve(self, now_ms: int) -> Reservation:
        assert now_ms <= LAST_MS
        return self._fixed


class Cable:
    """A way to the database that connects anew every time, counts that, and can be cut."""

    def __init__(self, database: Engine, proxy: TcpProxy) -> None:
        self.database = database
        self.engine = create_engine(database.url.set(host="127.0.0.1", port=proxy.port), poolclass=NullPool)
        self.proxy = proxy
        self.tries = 0
        self.on_try: Callable[[], object] = bool
        event.listen(self.engine, "do_connect", self._count)

    def cut(self) -> None:
        self.proxy.refuse()

    def mend(self) -> None:
        self.proxy.refuse(refusing=False)

    def lose_reply_to_commit(self) -> None:
        self.proxy.lose_reply_to(lambda request: b"COMMIT" in request)

    def cut_at_try(self, number: int) -> None:
        self.on_try = lambda: self.proxy.refuse(refusing=self.tries >= number)

    def _count(self, *_: object) -> None:
        self.tries += 1
        self.on_try()


@pytest.fixture
def database(engine: Engine) -> Iterator[Engine]:
    """Return a database whose nodes are all free and unused, as the migration left them."""
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.execute(
            text(f"CREATE TABLE IF NOT EXISTS {SCHEMA}.snowflake_nodes (LIKE snowflake_nodes INCLUDING ALL)")
        )
    options = f"-csearch_path={SCHEMA} -clock_timeout=5000"
    database = create_engine(engine.url.update_query_dict({"options": options}))
    reset(database)
    yield database
    database.dispose()


@pytest.fixture
def cable(database: Engine, postgres_proxy: TcpProxy) -> Cable:
    """Return a way to the same database that can be cut."""
    return Cable(database, postgres_proxy)


@pytest.fixture
def start_process(database: Engine) -> Iterator[Callable[[float], Process]]:
    """Return what starts processes, all of which end with the test."""
    started: list[Process] = []

    def start(lease_s: float = LEASE_S) -> Process:
        started.append(Process(database, lease_s))
        return started[-1]

    yield start
    for process in started:
        process.end()


def reset(engine: Engine) -> None:
    """Make every node free and unused."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM snowflake_nodes"))
        connection.execute(text("INSERT INTO snowflake_nodes (node) SELECT generate_series(0, 1023)"))


def occupy_all_but(engine: Engine, *free: int) -> None:
    """Lease every other node to somebody who never dies."""
    others = update(nodes).where(nodes.c.node.not_in(free)).values(holder=uuid4(), expires_at=text("'infinity'"))
    with engine.begin() as connection:
        connection.execute(others)


def expire(engine: Engine, *which: int) -> None:
    """Let these leases run out by PostgreSQL's clock, and by no other."""
    with engine.begin() as connection:
        connection.execute(update(nodes).where(nodes.c.node.in_(which)).values(expires_at=func.now()))


def row_of(engine: Engine, node: int) -> tuple[UUID | None, bool, int]:
    """Return a node's holder, whether its lease holds, and how far it is reserved."""
    query = select(nodes.c.holder, nodes.c.expires_at > func.now(), nodes.c.reserved_until_ms)
    with engine.connect() as connection:
        holder, holds, reserved_until_ms = connection.execute(query.where(nodes.c.node == node)).one()
    return holder, holds, reserved_until_ms


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def without_database(clock: FakeClock, node: int = 5) -> Snowflake:
    """Make a generator whose node is its own for ever."""
    return Snowflake(FixedLease(node), clock_ms=clock, wait_s=clock.wait_s)


def leasing(engine: Engine, clock: FakeClock, uptime: FakeUptime | None = None) -> Snowflake:
    """Make a generator that leases its node, and on whose clocks nothing happens by itself."""
    return Snowflake(NodeLease(engine, uptime_s=uptime or FakeUptime()), clock_ms=clock, wait_s=clock.wait_s)


# What an id is


def test_an_id_is_41_bits_of_milliseconds_then_10_of_node_then_12_of_sequence() -> None:
    assert encode(EPOCH_MS, 0, 0) == 0
    assert encode(EPOCH_MS + 1, 2, 3) == (1 << 22) + (2 << 12) + 3
    assert encode(LAST_MS, NODES - 1, 4095) == 2**63 - 1


@given(instants, node_ids, sequences)
def test_an_id_tells_what_it_was_made_of(instant_ms: int, node: int, sequence: int) -> None:
    assert decode(encode(instant_ms, node, sequence)) == Parts(instant_ms, node, sequence)


@given(st.tuples(instants, node_ids, sequences), st.tuples(instants, node_ids, sequences))
def test_ids_sort_by_time_then_node_then_sequence(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (encode(*one) < encode(*other)) == (one < other)


def test_the_instant_of_an_id_is_in_utc_and_exact_to_the_millisecond() -> None:
    one_day_and_a_millisecond = 86_400_000 + 1

    assert instant_of(encode(EPOCH_MS + one_day_and_a_millisecond, 1023, 4095)) == datetime(
        2026, 1, 2, 0, 0, 0, 1000, tzinfo=UTC
    )
    assert instant_of(0) == datetime(2026, 1, 1, tzinfo=UTC)
    assert instant_of(0).tzinfo is UTC


# The generator alone


def test_an_id_carries_the_clock_and_the_node() -> None:
    assert decode(without_database(FakeClock(), node=77).next_id()) == Parts(START_MS, 77, 0)


@given(st.lists(st.integers(-MAX_WAIT_MS + 1, 5_000), max_size=50))
def test_ids_grow_whatever_the_clock_does_and_never_run_ahead_of_it(steps_ms: list[int]) -> None:
    clock = FakeClock()
    ids = without_database(clock)
    last = ids.next_id()
    for step_ms in steps_ms:
        clock.now_ms += step_ms
        following = ids.next_id()
        assert following > last
        assert decode(following).instant_ms <= clock.now_ms
        last = following


def test_4096_ids_fit_a_millisecond_and_the_next_waits_for_the_next_one() -> None:
    clock = FakeClock()
    ids = without_database(clock)

    assert [decode(ids.next_id()) for _ in range(4096)] == [Parts(START_MS, 5, n) for n in range(4096)]
    assert clock.waits_ms == []
    assert decode(ids.next_id()) == Parts(START_MS + 1, 5, 0)
    assert clock.waits_ms == [1]


def test_a_later_millisecond_begins_its_sequence_at_zero() -> None:
    clock = FakeClock()
    ids = without_database(clock)
    ids.next_id()
    ids.next_id()

    clock.now_ms += 1

    assert decode(ids.next_id()) == Parts(START_MS + 1, 5, 0)


def test_a_clock_that_steps_back_up_to_the_bound_is_waited_for() -> None:
    clock = FakeClock()
    ids = without_database(clock)
    ids.next_id()

    clock.now_ms -= MAX_WAIT_MS

    assert decode(ids.next_id()) == Parts(START_MS, 5, 1)
    assert clock.waits_ms == [MAX_WAIT_MS]


def test_a_clock_that_steps_back_further_is_an_error_at_once_until_it_has_caught_up() -> None:
    clock = FakeClock()
    ids = without_database(clock)
    ids.next_id()

    clock.now_ms -= MAX_WAIT_MS + 1
    with pytest.raises(ClockMovedBackwards, match=f"behind_ms={MAX_WAIT_MS + 1}"):
        ids.next_id()

    assert clock.waits_ms == []
    clock.now_ms += 1
    assert decode(ids.next_id()) == Parts(START_MS, 5, 1)


def test_the_whole_wait_is_bounded_when_the_clock_stands_still() -> None:
    clock = FakeClock()
    waits_s: list[float] = []
    ids = Snowflake(FixedLease(), clock_ms=clock, wait_s=waits_s.append)
    ids.next_id()

    clock.now_ms -= 400
    with pytest.raises(ClockMovedBackwards):
        ids.next_id()

    assert waits_s == [0.4, 0.4]  # a third would pass one second


def test_ids_begin_with_the_epoch() -> None:
    clock = FakeClock(EPOCH_MS)

    assert without_database(clock).next_id() == encode(EPOCH_MS, 5, 0)
    assert clock.waits_ms == []


def test_a_clock_before_the_epoch_is_an_error() -> None:
    with pytest.raises(ClockMovedBackwards):
        without_database(FakeClock(EPOCH_MS - MAX_WAIT_MS - 1)).next_id()
    with pytest.raises(ClockMovedBackwards):
        without_database(FakeClock(0)).next_id()


def test_threads_take_turns() -> None:
    reading = threading.Lock()

    def clock_ms() -> int:
        assert reading.acquire(blocking=False), "two threads were inside next_id() at once"
        time.sleep(0)  # lets the others try
        reading.release()
        return START_MS + MAX_WAIT_MS

    ids = Snowflake(FixedLease(), clock_ms=clock_ms)
    with ThreadPoolExecutor(8) as pool:
        issued = list(pool.map(lambda _: ids.next_id(), range(4000)))
    assert len(set(issued)) == 4000


def test_the_real_clocks_will_do(database: Engine) -> None:
    ids = Snowflake(NodeLease(database))
    before_ms = time.time_ns() // 1_000_000
    issued = [ids.next_id() for _ in range(2000)]
    after_ms = time.time_ns() // 1_000_000

    assert issued == sorted(set(issued))
    assert all(before_ms <= decode(one).instant_ms <= after_ms for one in issued)
    assert 0 < ids.lease.seconds_left <= LEASE_S


# The lease


def test_the_migration_leaves_a_row_for_every_node(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(select(nodes.c.node).order_by(nodes.c.node)).scalars().all() == [*range(NODES)]


def test_nothing_connects_before_the_first_id(cable: Cable) -> None:
    ids = leasing(cable.engine, FakeClock())
    ids.release()
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)
    assert cable.tries == 0

    ids.next_id()

    assert cable.tries == 1
    assert (ids.lease.node, ids.lease.seconds_left) == (0, LEASE_S)


def test_a_lease_has_a_length(database: Engine) -> None:
    with pytest.raises(ValueError, match="lease_s"):
        NodeLease(database, lease_s=0)


def test_two_generators_never_share_a_node_however_their_clocks_differ(database: Engine) -> None:
    clocks = [FakeClock(), FakeClock(START_MS + 86_400_000), FakeClock(START_MS - 86_400_000)]

    assert [decode(leasing(database, clock).next_id()).node for clock in clocks] == [0, 1, 2]


def test_a_taker_passes_over_a_node_that_somebody_else_is_just_taking(database: Engine) -> None:
    occupy_all_but(database, 3, 4)
    with database.connect() as rival:
        rival.execute(select(nodes).where(nodes.c.node == 3).with_for_update())
        rival_free = leasing(database, FakeClock())
        assert decode(rival_free.next_id()).node == 4
        with pytest.raises(NoFreeNode):
            leasing(database, FakeClock()).next_id()


def test_the_node_that_is_reserved_least_far_is_taken(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(update(nodes).values(reserved_until_ms=START_MS - nodes.c.node))

    assert decode(leasing(database, FakeClock()).next_id()).node == NODES - 1


def test_every_id_lies_within_what_its_node_has_on_record(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    ids.next_id()
    assert row_of(database, 0)[1:] == (True, START_MS + LEASE_MS)

    clock.now_ms = START_MS + LEASE_MS
    ids.next_id()
    assert row_of(database, 0)[2] == START_MS + LEASE_MS

    clock.now_ms += 1
    assert decode(ids.next_id()) == Parts(clock.now_ms, 0, 0)
    assert row_of(database, 0)[2] == clock.now_ms + LEASE_MS


def test_all_taken_is_an_error_until_one_is_free(database: Engine) -> None:
    occupy_all_but(database)
    ids = leasing(database, FakeClock())
    with pytest.raises(NoFreeNode):
        ids.next_id()

    expire(database, 1023)

    assert decode(ids.next_id()).node == 1023


def test_the_lease_is_renewed_when_a_third_of_it_is_left(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    ids.next_id()
    with cable.engine.begin() as connection:
        connection.execute(update(nodes).where(nodes.c.node == 0).values(expires_at=text("now() + interval '15 s'")))
    tries = cable.tries

    uptime.now_s += LEASE_S * 2 / 3 - 0.125
    ids.next_id()
    assert (cable.tries, ids.lease.seconds_left) == (tries, LEASE_S / 3 + 0.125)

    uptime.now_s += 0.125
    assert decode(ids.next_id()).node == 0
    assert (cable.tries, ids.lease.seconds_left) == (tries + 1, LEASE_S)
    with cable.engine.connect() as connection:
        left_s = connection.execute(
            select(func.extract("epoch", nodes.c.expires_at - func.now())).where(nodes.c.node == 0)
        ).scalar_one()
    assert 15 < left_s <= LEASE_S


def test_a_lease_counts_from_before_it_was_asked_for(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + 4)
    ids = leasing(cable.engine, FakeClock(), uptime)

    ids.next_id()
    assert ids.lease.seconds_left == LEASE_S - 4

    uptime.now_s += LEASE_S - 5
    ids.next_id()
    assert ids.lease.seconds_left == LEASE_S - 4


def test_an_answer_that_took_longer_than_the_lease_is_not_used(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + LEASE_S)

    with pytest.raises(LeaseUnavailable):
        leasing(cable.engine, FakeClock(), uptime).next_id()


def test_a_lost_lease_is_left_for_another_node_and_ids_still_grow(database: Engine) -> None:
    occupy_all_but(database, 9)
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(database, clock, uptime)
    before = [ids.next_id(), ids.next_id()]
    occupy_all_but(database, 2)
    expire(database, 2)

    uptime.now_s += LEASE_S - 1
    after = ids.next_id()

    assert decode(after) == Parts(START_MS + 1, 2, 0)  # at START_MS node 2 would sort before node 9
    assert before[0] < before[1] < after


def test_a_lease_that_ran_out_is_not_renewed_but_taken_anew(database: Engine) -> None:
    occupy_all_but(database, 6)
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(database, clock, uptime)
    ids.next_id()
    first_holder, *_ = row_of(database, 6)
    expire(database, 6)
    clock.now_ms += LEASE_MS - 5

    uptime.now_s += LEASE_S
    again = ids.next_id()

    assert decode(again) == Parts(START_MS + LEASE_MS + 1, 6, 0)  # as any other successor
    assert row_of(database, 6)[0] not in (None, first_holder)  # a late statement of the first taking finds nothing


def test_an_idle_process_has_no_node_once_its_lease_has_run_out(database: Engine) -> None:
    uptime = FakeUptime()
    ids = leasing(database, FakeClock(), uptime)
    ids.next_id()

    uptime.now_s += LEASE_S
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)
    uptime.now_s += 1
    assert (ids.lease.node, ids.lease.seconds_left) == (None, 0)


# Successors on one node


def test_a_successor_starts_above_what_its_predecessor_reserved_however_slow_its_clock(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock(START_MS)).next_id()
    expire(database, 8)
    behind = FakeClock(START_MS + LEASE_MS - 10)

    first = leasing(database, behind).next_id()

    assert decode(first) == Parts(START_MS + LEASE_MS + 1, 8, 0)
    assert behind.waits_ms == [11]


def test_a_successor_with_a_slow_clock_does_not_lower_the_reservation(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock(START_MS)).next_id()
    expire(database, 8)
    uptime = FakeUptime()
    slow = leasing(database, FakeClock(START_MS - LEASE_MS), uptime)

    with pytest.raises(ClockMovedBackwards):
        slow.next_id()
    assert row_of(database, 8)[2] == START_MS + LEASE_MS
    uptime.now_s += LEASE_S - 1
    with pytest.raises(ClockMovedBackwards):  # renewed by now
        slow.next_id()
    assert row_of(database, 8)[2] == START_MS + LEASE_MS
    slow.release()
    assert row_of(database, 8) == (None, False, START_MS + LEASE_MS)


def test_a_released_node_can_be_used_again_right_after_its_last_id(database: Engine) -> None:
    occupy_all_but(database, 8)
    clock = FakeClock()
    first = leasing(database, clock)
    first.next_id()
    clock.now_ms += 10
    last = first.next_id()
    first.release()
    assert (first.lease.node, first.lease.seconds_left) == (None, 0)
    assert row_of(database, 8) == (None, False, clock.now_ms)

    after = leasing(database, clock).next_id()

    assert clock.waits_ms == [1]
    assert decode(after) == Parts(decode(last).instant_ms + 1, 8, 0)


def test_a_released_generator_takes_a_node_again(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    before = ids.next_id()
    ids.release()
    ids.release()

    after = ids.next_id()

    assert after > before
    assert decode(after).node == 1  # 0 has been used up to now, 1 never


def test_who_lost_a_node_cannot_release_it(database: Engine) -> None:
    occupy_all_but(database, 8)
    loser = leasing(database, FakeClock())
    loser.next_id()
    expire(database, 8)
    leasing(database, FakeClock(START_MS + LEASE_MS)).next_id()
    winners = row_of(database, 8)

    loser.release()

    assert row_of(database, 8) == winners == (winners[0], True, START_MS + 2 * LEASE_MS)


def test_a_release_reserves_nothing_beyond_what_the_node_had(database: Engine) -> None:
    occupy_all_but(database, 8)
    clock, uptime = FakeClock(START_MS), FakeUptime()
    ids = leasing(database, clock, uptime)
    ids.next_id()
    occupy_all_but(database, 7)
    expire(database, 7)
    clock.now_ms -= LEASE_MS + 1  # so that node 7 is reserved up to before the last id
    uptime.now_s += LEASE_S
    with pytest.raises(ClockMovedBackwards):
        ids.next_id()

    ids.release()

    assert row_of(database, 7) == (None, False, START_MS - 1)


def test_a_lease_given_back_unused_leaves_the_node_reserved_as_far_as_it_was(database: Engine) -> None:
    occupy_all_but(database, 8)
    leasing(database, FakeClock()).next_id()
    expire(database, 8)
    unused = NodeLease(database)
    unused.reserve(START_MS + LEASE_MS)

    unused.release(START_MS)

    assert row_of(database, 8) == (None, False, START_MS + LEASE_MS)


actions = st.sampled_from(["issue", "forward", "leap", "back", "far back", "lapse", "expire", "crash", "release"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), actions), max_size=40))
def test_no_id_is_issued_twice_whatever_happens_to_three_generators_on_two_nodes(
    database: Engine, story: list[tuple[int, str]]
) -> None:
    reset(database)
    occupy_all_but(database, 0, 1)
    clocks, uptimes = [FakeClock() for _ in range(3)], [FakeUptime() for _ in range(3)]
    generators = [leasing(database, clocks[who], uptimes[who]) for who in range(3)]
    issued: list[list[int]] = [[], [], []]
    steps_ms = {"forward": 500, "leap": 2 * LEASE_MS, "back": -MAX_WAIT_MS // 2, "far back": -LEASE_MS}
    for who, action in story:
        clocks[who].now_ms += steps_ms.get(action, 0)
        if action == "lapse":
            uptimes[who].now_s += LEASE_S
        elif action == "expire":
            expire(database, 0, 1)
        elif action == "release":
            generators[who].release()
        elif action == "crash":
            generators[who] = leasing(database, clocks[who], uptimes[who])
            issued.append(issued[who])
            issued[who] = []
        try:
            issued[who] += [generators[who].next_id() for _ in range(2)]
        except SnowflakeError:
            continue
    assert all(lifetime == sorted(lifetime) for lifetime in issued)
    everything = [one for lifetime in issued for one in lifetime]
    assert len(set(everything)) == len(everything)


# The end of the range


def test_ids_end_with_the_41_bits(database: Engine) -> None:
    clock = FakeClock(LAST_MS)
    ids = leasing(database, clock)

    assert ids.next_id() == (LAST_MS - EPOCH_MS) << 22
    assert row_of(database, 0)[2] == LAST_MS
    clock.now_ms += 1
    with pytest.raises(ClockOutOfRange, match=f"now_ms={LAST_MS + 1}"):
        ids.next_id()


# Without the database


def test_ids_go_on_without_the_database_while_the_lease_holds_and_not_a_moment_longer(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    first = ids.next_id()
    cable.cut()

    uptime.now_s += LEASE_S - 0.125
    assert ids.next_id() == first + 1
    assert cable.tries > 1  # a renewal was tried

    uptime.now_s += 0.125
    with pytest.raises(LeaseUnavailable) as caught:
        ids.next_id()
    assert isinstance(caught.value, Unavailable)

    cable.mend()
    uptime.now_s += RETRY_PAUSE_S
    assert decode(ids.next_id()).node == 0  # by PostgreSQL's clock, on which no time has passed, it is still ours


def test_ids_never_pass_the_reservation_while_the_database_is_away(cable: Cable) -> None:
    clock = FakeClock()
    ids = leasing(cable.engine, clock)
    ids.next_id()
    cable.cut()

    clock.now_ms = START_MS + LEASE_MS
    assert decode(ids.next_id()).instant_ms == START_MS + LEASE_MS
    clock.now_ms += 1
    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    assert ids.lease.seconds_left == LEASE_S


def test_a_database_that_is_away_is_asked_at_most_every_half_second(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.cut()
    ids = leasing(cable.engine, FakeClock(), uptime)
    with pytest.raises(LeaseUnavailable) as caught:
        ids.next_id()
    assert caught.value.__cause__ is not None
    tries = cable.tries

    cable.mend()
    uptime.now_s += RETRY_PAUSE_S - 0.125
    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    assert cable.tries == tries

    uptime.now_s += 0.125
    ids.next_id()
    assert cable.tries == tries + 1


def test_a_server_that_cannot_be_reached_is_tried_once(database: Engine) -> None:
    tries: list[object] = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        engine = create_engine(database.url.set(host="127.0.0.1", port=nobody.getsockname()[1]))
        event.listen(engine, "do_connect", lambda *_: tries.append("one"))
        with pytest.raises(LeaseUnavailable):
            leasing(engine, FakeClock()).next_id()

    assert tries == ["one"]


def test_the_pause_counts_from_the_end_of_a_try_that_took_long(cable: Cable) -> None:
    uptime = FakeUptime()
    cable.cut()
    cable.on_try = lambda: setattr(uptime, "now_s", uptime.now_s + 2)
    ids = leasing(cable.engine, FakeClock(), uptime)

    with pytest.raises(LeaseUnavailable):
        ids.next_id()
    tries = cable.tries
    with pytest.raises(LeaseUnavailable):
        ids.next_id()

    assert cable.tries == tries


def test_a_renewal_whose_reply_was_lost_is_made_again_at_once(cable: Cable) -> None:
    uptime = FakeUptime()
    ids = leasing(cable.engine, FakeClock(), uptime)
    ids.next_id()
    uptime.now_s += LEASE_S - 5
    cable.lose_reply_to_commit()

    assert decode(ids.next_id()).node == 0

    assert (cable.proxy.cuts, ids.lease.seconds_left) == (1, LEASE_S)


def test_a_renewal_that_nobody_heard_of_counts_for_nothing(cable: Cable) -> None:
    uptime, clock = FakeUptime(), FakeClock()
    ids = leasing(cable.engine, clock, uptime)
    ids.next_id()
    uptime.now_s += LEASE_S - 5
    clock.now_ms += LEASE_MS - 5000
    cable.lose_reply_to_commit()
    cable.cut_at_try(cable.tries + 2)

    assert decode(ids.next_id()).node == 0
    assert (cable.proxy.cuts, ids.lease.seconds_left) == (1, 5)
    assert row_of(cable.database, 0)[2] == clock.now_ms + LEASE_MS
    clock.now_ms += 5001
    with pytest.raises(LeaseUnavailable):
        ids.next_id()


def test_a_node_whose_taking_had_no_reply_is_left_to_run_out(cable: Cable) -> None:
    ids = leasing(cable.engine, FakeClock())
    cable.lose_reply_to_commit()

    assert decode(ids.next_id()).node == 1

    assert cable.proxy.cuts == 1
    assert row_of(cable.engine, 0)[1:] == (True, START_MS + LEASE_MS)


def test_a_connection_that_died_in_the_pool_is_no_fault(database: Engine) -> None:
    ids = leasing(database, FakeClock())
    killer = create_engine(database.url, poolclass=NullPool)
    with database.connect() as connection:
        backend = connection.execute(select(func.pg_backend_pid())).scalar_one()
    with killer.connect() as connection:
        connection.execute(select(func.pg_terminate_backend(backend, 5000)))

    assert decode(ids.next_id()).node == 0


def test_a_release_without_the_database_lets_the_lease_run_out(cable: Cable, database: Engine) -> None:
    ids = leasing(cable.engine, FakeClock())
    ids.next_id()
    cable.cut()

    ids.release()

    assert ids.lease.node is None
    assert row_of(database, 0)[1:] == (True, START_MS + LEASE_MS)


# Processes


def test_many_processes_at_once_never_issue_the_same_id(start_process: Callable[[], Process]) -> None:
    processes = [start_process() for _ in range(8)]
    for process in processes:
        process.tell("issue", 3000)
    answers = [process.answer() for process in processes]

    assert all(ids == sorted(ids) and len(ids) == 3000 for ids in answers)
    assert len({one for ids in answers for one in ids}) == 8 * 3000
    assert len({decode(one).node for ids in answers for one in ids}) == 8


def test_both_sides_of_a_fork_issue_ids_of_their_own(start_process: Callable[[], Process]) -> None:
    answer = start_process().ask("fork", 2000)
    parent, child = answer["parent"], answer["child"]

    parents = [*parent["before"], *parent["ids"]]
    assert parents == sorted(parents)
    assert child["ids"] == sorted(child["ids"])
    assert len({*parents, *child["ids"]}) == 2001 + 2000
    assert {decode(one).node for one in parents} == {0}
    assert {decode(one).node for one in child["ids"]} == {1}
    assert child["backend"] not in parent["backends"]
    assert len(set(parent["backends"])) == 1  # nor has the child closed the parent's


def test_a_child_forked_while_a_thread_issued_an_id_can_issue_its_own(start_process: Callable[[], Process]) -> None:
    assert [decode(one).node for one in start_process().ask("fork_while_another_thread_issues")] == [1, 1, 1]


def test_a_process_stopped_past_its_lease_leaves_the_node_to_its_successor(
    database: Engine, start_process: Callable[[float], Process]
) -> None:
    occupy_all_but(database, 8)
    process = start_process(0.5)
    before = process.ask("issue", 10)
    process.signal(signal.SIGSTOP)
    process.wait_until_stopped()
    eventually(lambda: not row_of(database, 8)[1])
    successor = leasing(database, FakeClock(decode(before[0]).instant_ms))
    successors = [successor.next_id() for _ in range(10)]
    expire(database, 3)

    process.signal(signal.SIGCONT)
    after = process.ask("issue", 10)

    assert {decode(one).node for one in [*before, *successors]} == {8}
    assert {decode(one).node for one in after} == {3}
    assert [*before, *after] == sorted([*before, *after])
    assert len({*before, *successors, *after}) == 30


def test_a_process_stopped_between_looking_at_its_lease_and_making_the_id_makes_no_duplicate(
    database: Engine, start_process: Callable[[float], Process]
) -> None:
    occupy_all_but(database, 8)
    process = start_process(0.5)
    before = process.ask("issue", 10)
    process.tell("issue_stopped_after_the_check")
    process.wait_until_stopped()
    eventually(lambda: not row_of(database, 8)[1])
    successor = leasing(database, FakeClock(decode(before[0]).instant_ms))
    successors = [successor.next_id() for _ in range(20)]

    process.signal(signal.SIGCONT)
    late = process.answer()

    assert {decode(one).node for one in [*before, *late, *successors]} == {8}
    assert len({*before, *late, *successors}) == 31
    assert max(before) < late[0] < min(successors)
