"""Whoever comes first goes at once, whoever comes meanwhile goes with the next, and nobody waits for one who left."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from models.ledger.groups import Groups, NotTakenError
from ops.local.processes import wait_for
from tests import nursery
from tests.patience import PATIENCE_S
from tests.project import ROOT


class Runs:
    """What groups were run. Each run is held until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.finished: list[list[str]] = []
        self.running = self.most_at_once = 0
        self.turns = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, group: Sequence[str]) -> Callable[[], object]:
        with self._lock:
            self.groups.append(list(group))
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        assert self.turns.acquire(timeout=PATIENCE_S)
        with self._lock:
            self.running -= 1
        if "raises" in group:
            raise ZeroDivisionError
        return lambda: self.finished.append(list(group))

    def let_go(self, count: int = 1) -> None:
        self.turns.release(count)


@pytest.fixture
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.let_go(1_000)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(50) as pool:
        yield pool


def make(runs: Runs, *, most: int = 10, at_once: int = 1, patience_s: float = PATIENCE_S) -> Groups[str]:
    return Groups(runs, most=most, at_once=at_once, patience_s=patience_s)


def join_in_turn(
    groups: Groups[str], threads: ThreadPoolExecutor, *members: str, joined: int = 0
) -> list[Future[None]]:
    """Join one after the other, all of them to wait."""
    futures = []
    for number, member in enumerate(members, 1):
        futures.append(threads.submit(groups.join, member))
        assert wait_for(lambda number=number: len(groups._waiting) == joined + number, PATIENCE_S)  # type: ignore[misc]
    return futures


def lead(groups: Groups[str], threads: ThreadPoolExecutor, runs: Runs, member: str = "first") -> Future[None]:
    """Join as the leader of a group that is then held."""
    before = len(runs.groups)
    future = threads.submit(groups.join, member)
    assert wait_for(lambda: len(runs.groups) == before + 1, PATIENCE_S)
    return future


def test_a_lone_member_waits_for_nobody(runs: Runs) -> None:
    groups = make(runs, patience_s=0)
    for member in "abc":
        runs.let_go()
        groups.join(member)
    assert runs.groups == runs.finished == [["a"], ["b"], ["c"]]


def test_those_who_came_meanwhile_go_together_in_the_order_in_which_they_came(
    runs: Runs, threads: ThreadPoolExecutor
) -> None:
    groups = make(runs)
    first = lead(groups, threads, runs)
    others = join_in_turn(groups, threads, *"abcde")
    assert not any(each.done() for each in (first, *others))
    runs.let_go()
    first.result(PATIENCE_S)
    assert wait_for(lambda: len(runs.groups) == 2, PATIENCE_S)
    assert not any(each.done() for each in others)
    runs.let_go()
    for each in others:
        each.result(PATIENCE_S)
    assert runs.groups == runs.finished == [["first"], [*"abcde"]]


def test_a_group_is_bounded_and_the_rest_are_the_next_in_turn(runs: Runs, threads: ThreadPoolExecutor) -> None:
    groups = make(runs, most=3)
    first = lead(groups, threads, runs)
    others = join_in_turn(groups, threads, *"abcdefg")
    runs.let_go(4)
    for each in (first, *others):
        each.result(PATIENCE_S)
    assert runs.groups == [["first"], [*"abc"], [*"def"], ["g"]]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_groups_run_at_once_than_allowed_and_none_fewer(
    runs: Runs, threads: ThreadPoolExecutor, at_once: int
) -> None:
    groups = make(runs, most=1, at_once=at_once)
    members = [threads.submit(groups.join, str(number)) for number in range(20)]
    for number in range(20):
        assert wait_for(lambda: runs.running == at_once, PATIENCE_S)
        runs.let_go()
        if 20 - number <= at_once:
            break
        assert wait_for(lambda number=number: len(runs.groups) == at_once + number + 1, PATIENCE_S)  # type: ignore[misc]
    runs.let_go(20)
    for each in members:
        each.result(PATIENCE_S)
    assert runs.most_at_once == at_once
    assert groups._free == at_once


def test_who_is_not_taken_in_time_is_told_so_and_never_run(runs: Runs, threads: ThreadPoolExecutor) -> None:
    groups = make(runs, patience_s=0.05)
    first = lead(groups, threads, runs)
    late = threads.submit(groups.join, "late")
    with pytest.raises(NotTakenError):
        late.result(PATIENCE_S)
    runs.let_go(2)
    first.result(PATIENCE_S)
    groups.join("next")
    assert runs.groups == [["first"], ["next"]]


def test_patience_is_for_the_beginning_and_not_for_the_end(runs: Runs, threads: ThreadPoolExecutor) -> None:
    groups = make(runs, patience_s=0.3)
    first = lead(groups, threads, runs)
    others = join_in_turn(groups, threads, *"ab")
    runs.let_go()
    first.result(PATIENCE_S)
    assert wait_for(lambda: len(runs.groups) == 2, PATIENCE_S)
    time.sleep(0.5)
    assert not any(each.done() for each in others)
    runs.let_go()
    for each in others:
        each.result(PATIENCE_S)


def test_what_a_group_raises_reaches_its_leader_alone_and_the_others_are_released(
    runs: Runs, threads: ThreadPoolExecutor
) -> None:
    groups = make(runs)
    first = lead(groups, threads, runs)
    leader, *others = join_in_turn(groups, threads, *"a", "raises", *"bc")
    runs.let_go(2)
    first.result(PATIENCE_S)
    with pytest.raises(ZeroDivisionError):
        leader.result(PATIENCE_S)
    for each in others:
        each.result(PATIENCE_S)
    assert runs.groups == [["first"], ["a", "raises", "b", "c"]]
    assert runs.finished == [["first"]]
    runs.let_go()
    groups.join("next")  # and the next ones are served
    assert runs.groups[-1] == ["next"]


def test_the_next_group_begins_before_what_is_still_to_be_done_about_the_last_one(threads: ThreadPoolExecutor) -> None:
    finishing, may_finish = threading.Event(), threading.Event()
    groups: Groups[str]
    ran: list[list[str]] = []

    def run(group: Sequence[str]) -> Callable[[], object] | None:
        ran.append(list(group))
        if len(ran) > 1:
            return None

        def finish() -> None:
            finishing.set()
            assert may_finish.wait(PATIENCE_S)

        return finish

    groups = Groups(run, most=10, patience_s=PATIENCE_S)
    first = threads.submit(groups.join, "a")
    assert finishing.wait(PATIENCE_S)
    groups.join("b")
    assert not first.done()  # nobody is told before all is done
    may_finish.set()
    first.result(PATIENCE_S)
    assert ran == [["a"], ["b"]]


def test_many_threads_are_all_run_once(threads: ThreadPoolExecutor) -> None:
    ran: list[int] = []
    sizes: list[int] = []

    def run(group: Sequence[int]) -> None:
        sizes.append(len(group))
        ran.extend(group)

    groups: Groups[int] = Groups(run, most=7, at_once=2, patience_s=PATIENCE_S)
    list(threads.map(groups.join, range(3_000)))
    assert sorted(ran) == list(range(3_000))
    assert max(sizes) <= 7
    assert (groups._free, len(groups._waiting)) == (2, 0)


# Whoever is cancelled takes nobody with him


@pytest.mark.parametrize("who", ["waiting", "leading", "heir", "following", "everybody"])
def test_a_greenlet_that_is_killed_takes_nobody_with_it(who: str) -> None:
    child = nursery.run(
        [sys.executable, "-m", "tests.models.ledger.greenlets_child", json.dumps({"work": who})],
        cwd=ROOT,
        text=True,
        timeout=PATIENCE_S * 2,
    )
    assert (child.returncode, child.stderr) == (0, "")
    told = json.loads(child.stdout)
    assert told["hung"] == []
    assert told["seats"] == told["seats_before"]
    assert told["ran"] == told["expected"]
