"""Watching by itself: every change once and in order, one look for all, and its bounds."""

import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from api.actions import watching
from api.actions.watching import Watcher, Watching
from api.calls.problems import ApiError, DeadlinePassed
from models.database.engine import create_bounded_engine
from models.errors import TransferNotFound, Unavailable
from models.ledger.history import History, Progress
from models.ledger.transfer import Transfer
from tests.api.actions.attempts import fail_once
from tests.api.waiters import wait_for
from tests.jobs.backlog import accept, fund, kill_off
from tests.models.ledger.ordering import post_now
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

Seen = list[tuple[str, int]]


@pytest.fixture
def books(engine: Engine) -> Engine:
    """Wallets 1 and 2 with money in them."""
    fund(engine, 1, 2)
    return engine


class Follower:
    """One who watches in a thread of his own."""

    def __init__(self, pool: ThreadPoolExecutor, watched: Watching, transfer_id: int, seconds: float = 60.0) -> None:
        self.watcher = Watcher()
        self.seen: Seen = []
        self._arguments = watched, transfer_id, seconds
        self.outcome: Future[None] = pool.submit(self._follow)

    def _follow(self) -> None:
        watched, transfer_id, seconds = self._arguments
        for each in watched.follow(transfer_id, seen_by=1, seconds=seconds, watcher=self.watcher):
            self._note(each)

    def _note(self, transfer: Transfer) -> None:
        self.seen.append((transfer.status.value, transfer.attempts))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def test_every_change_is_told_once_and_in_order(books: Engine, pool: ThreadPoolExecutor) -> None:
    (job,) = accept(books, 1)
    watched = Watching(History(books))
    follower = Follower(pool, watched, job)
    expected: Seen = [("pending", 0)]
    for attempts in (1, 2, 3):
        wait_for(lambda: follower.seen == expected)
        fail_once(books, job)
        expected.append(("pending", attempts))
    wait_for(lambda: follower.seen == expected)
    post_now(books, [job])
    follower.outcome.result(PATIENCE_S)
    assert follower.seen == [*expected, ("posted", 4)]  # the posting is one, too


def test_a_rejection_and_a_failure_end_it_too(books: Engine, pool: ThreadPoolExecutor) -> None:
    poor, buried = accept(books, 2, cents=5_000_000)
    watched = Watching(History(books))
    followers = [Follower(pool, watched, job) for job in (poor, buried)]
    wait_for(lambda: all(each.seen for each in followers))
    post_now(books, [poor])
    kill_off(books, [buried])
    for each in followers:
        each.outcome.result(PATIENCE_S)
    assert [each.seen[-1][0] for each in followers] == ["rejected", "failed"]
    assert [len(each.seen) for each in followers] == [2, 2]


def test_what_is_final_is_told_once_and_takes_no_seat(books: Engine) -> None:
    (job,) = accept(books, 1)
    post_now(books, [job])
    watched = Watching(History(books), seats=0)
    found = list(watched.follow(job, seen_by=2, seconds=60, watcher=Watcher()))
    assert [each.status.value for each in found] == ["posted"]


@pytest.mark.parametrize("seen_by", [3, 2**62])
def test_it_is_for_those_whom_it_concerns(books: Engine, seen_by: int) -> None:
    (job,) = accept(books, 1)
    with pytest.raises(TransferNotFound):
        next(Watching(History(books)).follow(job, seen_by=seen_by, seconds=60, watcher=Watcher()))


def test_beyond_the_seats_one_is_shown_how_it_stands_and_told_to_ask_again(
    books: Engine, pool: ThreadPoolExecutor
) -> None:
    first, second = accept(books, 2)
    watched = Watching(History(books), seats=1)
    sitting = Follower(pool, watched, first)
    wait_for(lambda: watched._room.waiters == 1)
    late = Follower(pool, watched, second)
    with pytest.raises(ApiError) as refused:
        late.outcome.result(PATIENCE_S)
    assert (refused.value.code, refused.value.headers) == ("unavailable", {"Retry-After": "1"})
    assert late.seen == [("pending", 0)]
    # Who goes leaves his seat at once.
    sitting.watcher.go()
    sitting.outcome.result(PATIENCE_S)
    third = Follower(pool, watched, second)
    wait_for(lambda: watched._room.waiters == 1)
    post_now(books, [second])
    third.outcome.result(PATIENCE_S)
    assert third.seen == [("pending", 0), ("posted", 1)]


def test_it_ends_with_its_time(books: Engine, pool: ThreadPoolExecutor) -> None:
    (job,) = accept(books, 1)
    began = time.monotonic()
    follower = Follower(pool, Watching(History(books)), job, seconds=0.2)
    with pytest.raises(DeadlinePassed):
        follower.outcome.result(PATIENCE_S)
    assert time.monotonic() - began >= 0.2
    assert follower.seen == [("pending", 0)]


def test_nobody_watches_for_ever(books: Engine, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_WATCH_S", 0.2)
    (job,) = accept(books, 1)
    follower = Follower(pool, Watching(History(books)), job)
    with pytest.raises(ApiError) as ended:
        follower.outcome.result(PATIENCE_S)
    assert ended.value.code == "unavailable"
    assert "Ask again." in ended.value.detail


def test_a_process_that_ends_tells_all_who_watch_and_all_who_come(books: Engine, pool: ThreadPoolExecutor) -> None:
    jobs = accept(books, 30)
    watched = Watching(History(books))
    followers = [Follower(pool, watched, job) for job in jobs]
    wait_for(lambda: watched._room.waiters == len(jobs))
    watched.close(within_s=0)
    followers.append(Follower(pool, watched, jobs[0]))
    for each in followers:
        with pytest.raises(ApiError):
            each.outcome.result(PATIENCE_S)
        assert each.seen == [("pending", 0)]


def test_all_who_watch_are_looked_for_together(books: Engine, pool: ThreadPoolExecutor) -> None:
    """However many there are, each look of theirs is one statement."""
    jobs = accept(books, 50)
    looks: list[int] = []
    history = History(books)
    find = history.find_progressed

    def count(seen: Collection[Progress]) -> set[Progress]:
        looks.append(len(seen))
        return find(seen)

    history.find_progressed = count  # type: ignore[method-assign]
    watched = Watching(history)
    followers = [Follower(pool, watched, job) for job in jobs]
    wait_for(lambda: looks[-3:] == [len(jobs)] * 3)
    before = len(looks)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1)
    # Ten a second for all of them, and not ten for each.
    assert len(looks) - before < 25
    post_now(books, jobs)
    for each in followers:
        each.outcome.result(PATIENCE_S)
        assert each.seen == [("pending", 0), ("posted", 1)]
    wait_for(lambda: all(thread.name != "waiting room" for thread in threading.enumerate()))


def test_without_a_database_it_ends(books: Engine, pool: ThreadPoolExecutor, postgres_proxy: TcpProxy) -> None:
    (job,) = accept(books, 1)
    timeouts_ms = {"lock_timeout": 1_000, "statement_timeout": 2_000, "idle_in_transaction_session_timeout": 5_000}
    url = postgres_proxy.url.replace("postgresql://", "postgresql+psycopg2://")
    engine = create_bounded_engine(url, timeouts_ms=timeouts_ms, pool_size=3, application_name="tests")
    try:
        watched = Watching(History(engine))
        follower = Follower(pool, watched, job)
        wait_for(lambda: watched._room.waiters == 1)
        postgres_proxy.refuse()
        with pytest.raises(Unavailable):
            follower.outcome.result(PATIENCE_S)
        # And its seat is free.
        postgres_proxy.refuse(refusing=False)
        again = Follower(pool, watched, job)
        wait_for(lambda: watched._room.waiters == 1)
        again.watcher.go()
        again.outcome.result(PATIENCE_S)
    finally:
        engine.dispose()
