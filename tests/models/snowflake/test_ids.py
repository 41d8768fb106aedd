"""Ids are never issued twice, whatever processes, clocks and the database do; each of those is forced here."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from models.snowflake.ids import MAX_WAIT_MS, MOST_MOVES, MOVES_WITHIN_S, ClockMovedBackwards, Snowflake
from models.snowflake.layout import EPOCH_MS, LAST_MS, Parts, decode, encode
from models.snowflake.leases import (
    LEASE_S,
    ClockOutOfRange,
    NodeLease,
    NoFreeNode,
    SnowflakeError,
)
from observe import metrics
from tests.models.snowflake.leasing import (
    LEASE_MS,
    FakeClock,
    FakeUptime,
    FixedLease,
    eventually,
    expire,
    leasing,
    occupy_all_but,
    reset,
    row_of,
    without_database,
)
from tests.models.snowflake.snowflake_child import START_MS, Process


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


HOUR_MS = 3_600_000


def test_after_a_clock_that_was_an_hour_ahead_another_node_goes_on_at_once(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    ids.next_id()
    clock.now_ms += HOUR_MS
    ahead = ids.next_id()
    clock.now_ms -= HOUR_MS
    steps = clock_steps()

    after = [decode(ids.next_id()) for _ in range(3)]

    assert after == [Parts(START_MS, 1, n) for n in range(3)]
    assert clock.waits_ms == []
    assert clock_steps() == steps + 1
    # What was issued in the future is nobody else's when that has come.
    assert row_of(database, 0) == (None, False, decode(ahead).instant_ms)


def clock_steps() -> float:
    return next(iter(metrics.clock_steps.collect())).samples[0].value


def test_a_clock_that_leaps_to_and_fro_uses_up_so_many_nodes_and_no_more(database: Engine) -> None:
    clock, uptime = FakeClock(), FakeUptime()
    ids = leasing(database, clock, uptime)
    for node in range(MOST_MOVES + 1):
        assert decode(ids.next_id()) == Parts(START_MS, node, 0)
        clock.now_ms += HOUR_MS
        assert decode(ids.next_id()) == Parts(START_MS + HOUR_MS, node, 0)
        clock.now_ms -= HOUR_MS
    assert ids.is_able()
    for _ in range(3):
        with pytest.raises(ClockMovedBackwards):
            ids.next_id()
    assert not ids.is_able()
    uptime.now_s += MOVES_WITHIN_S
    assert ids.is_able()
    assert decode(ids.next_id()).node == MOST_MOVES + 1


def test_where_no_other_node_is_any_better_the_clock_must_come(database: Engine) -> None:
    occupy_all_but(database, 8)
    clock, uptime = FakeClock(), FakeUptime()
    ids = leasing(database, clock, uptime)
    clock.now_ms += HOUR_MS
    ahead = ids.next_id()
    clock.now_ms -= HOUR_MS
    for _ in range(3):
        uptime.now_s += MOVES_WITHIN_S
        with pytest.raises(ClockMovedBackwards):
            ids.next_id()
        assert not ids.is_able()
    clock.now_ms += HOUR_MS + 1
    assert ids.is_able()
    assert ids.next_id() > ahead


def test_a_process_that_was_idle_meanwhile_does_not_wait_for_its_last_id(database: Engine) -> None:
    """Its lease has run out, and so it has another node anyway."""
    clock, uptime = FakeClock(), FakeUptime()
    ids = leasing(database, clock, uptime)
    clock.now_ms += HOUR_MS
    ids.next_id()
    clock.now_ms -= HOUR_MS - LEASE_MS
    uptime.now_s += LEASE_S
    assert decode(ids.next_id()) == Parts(START_MS + LEASE_MS, 1, 0)


def test_whether_ids_can_be_had_is_found_out_only_after_one_could_not(database: Engine) -> None:
    clock = FakeClock()
    ids = leasing(database, clock)
    assert ids.is_able()
    assert ids.lease.node is None  # nothing was leased for the question
    occupy_all_but(database)
    with pytest.raises(NoFreeNode):
        ids.next_id()
    assert not ids.is_able()
    expire(database, 3)
    assert ids.is_able()
    assert ids.lease.node == 3


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


actions = st.sampled_from(
    ["issue", "forward", "leap", "back", "far back", "pause", "lapse", "expire", "crash", "release"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), actions), max_size=40))
def test_no_id_is_issued_twice_whatever_happens_to_three_generators_on_two_nodes(
    database: Engine, story: list[tuple[int, str]]
) -> None:
    reset(database)
    occupy_all_but(database, 0, 1)
    clocks, uptimes = [FakeClock() for _ in range(3)], [FakeUptime() for _ in range(3)]
    generators = [leasing(database, clocks[who], uptimes[who]) for who in range(3)]
    issued: list[int] = []
    last = [0, 0, 0]
    steps_ms = {"forward": 500, "leap": 2 * LEASE_MS, "back": -MAX_WAIT_MS // 2, "far back": -LEASE_MS}
    for who, action in story:
        clocks[who].now_ms += steps_ms.get(action, 0)
        if action == "pause":
            uptimes[who].now_s += MOVES_WITHIN_S
        elif action == "lapse":
            uptimes[who].now_s += LEASE_S
        elif action == "expire":
            expire(database, 0, 1)
        elif action == "release":
            generators[who].release()
        elif action == "crash":
            generators[who] = leasing(database, clocks[who], uptimes[who])
            last[who] = 0
        for _ in range(2):
            began_ms = clocks[who].now_ms
            try:
                one = generators[who].next_id()
            except SnowflakeError:
                break
            assert decode(one).instant_ms <= clocks[who].now_ms
            # They grow, but for a clock that has gone back too far to be waited for.
            assert one > last[who] or decode(last[who]).instant_ms - began_ms > MAX_WAIT_MS
            issued.append(one)
            last[who] = one
    assert len(set(issued)) == len(issued)


def test_ids_end_with_the_41_bits(database: Engine) -> None:
    clock = FakeClock(LAST_MS)
    ids = leasing(database, clock)

    assert ids.next_id() == (LAST_MS - EPOCH_MS) << 22
    assert row_of(database, 0)[2] == LAST_MS
    clock.now_ms += 1
    with pytest.raises(ClockOutOfRange, match=f"now_ms={LAST_MS + 1}"):
        ids.next_id()


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
