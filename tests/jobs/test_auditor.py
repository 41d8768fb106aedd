"""The auditor: a slice at a time, over and over, whoever of many processes does it, and in nobody's way."""

import sys
from itertools import pairwise
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

import jobs.auditor
import jobs.relay
from jobs.auditor import MAX_SLICE, MIN_SLICE, REST, RETRY_S, Auditor
from jobs.connections import connect_worker_redis
from jobs.relay import Relay, RelayThread
from jobs.rq.backlog import RqBacklog
from models.audit import books, record
from models.audit.audit import Slice, run_slice
from models.audit.record import AuditResult
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, assert_posted_once, backlog, locked
from tests.jobs.conftest import WorkerStarter
from tests.models.ledger.ordering import bounded_engine
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was posted just now is in the grand total, too."""
    monkeypatch.setattr(books, "CUT_AGE_S", 0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def auditor(books: Engine, redis_client: redis.Redis, clock: Clock) -> Auditor:
    return Auditor(books, RqBacklog(redis_client, books), interval_s=300.0, clock=clock)


def run(auditor: Auditor, clock: Clock, engine: Engine) -> AuditResult:
    """Let it run until an audit is finished, and return that."""
    before = record.find_last(engine)

    def is_finished() -> bool:
        auditor.run_once()
        clock.now += 60.0
        return record.find_last(engine) != before

    assert wait_for(is_finished, PATIENCE_S)
    last = record.find_last(engine)
    assert last is not None
    return last


def spoil(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE wallets SET balance = balance + 1 WHERE id IN (2, 3)"))


def test_it_finishes_an_audit_and_says_so(books: Engine, auditor: Auditor, clock: Clock) -> None:
    with capture_logs() as logged:
        last = run(auditor, clock, books)
    assert (last.ok, last.findings) == (True, [])
    assert (last.wallets, last.entries, last.transfers) == (4, 4, 4)
    (line,) = logged
    assert (line["event"], line["log_level"], line["ok"]) == ("audit finished", "info", True)
    assert (line["wallets"], line["entries"], line["transfers"]) == (4, 4, 4)


@pytest.mark.parametrize("limit", [1, MAX_SLICE])
def test_a_finding_is_told_once_an_audit_by_name_and_ids(
    *, books: Engine, auditor: Auditor, clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(jobs.auditor, "MAX_SLICE", limit)
    auditor._limit = limit
    spoil(books)
    with capture_logs() as logged:
        last = run(auditor, clock, books)
    error, finished = logged
    assert (error["event"], error["log_level"]) == ("invariant broken", "error")
    assert error["invariant"] == "balance_equals_entries"
    assert error["ids"] == ["2", "3"] if limit > 1 else ["2"]
    assert (finished["ok"], finished["broken"]) == (False, {"balance_equals_entries": 2})
    assert last.ok is False
    assert [(each.invariant, each.ids) for each in last.findings] == [("balance_equals_entries", ["2", "3"])]


def test_the_queue_is_audited_too(
    books: Engine, auditor: Auditor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rq.audit_queue.APART_S", 0.0)
    monkeypatch.setattr("jobs.rq.audit_queue.APART_S_PER_PAGE", 0.0)
    (lost,) = accept(books, 1)
    last = run(auditor, clock, books)
    assert [(each.invariant, each.ids) for each in last.findings] == [("pending_has_job", [str(lost)])]


def test_the_next_audit_waits_until_it_is_due(books: Engine, auditor: Auditor, clock: Clock) -> None:
    first = run(auditor, clock, books)
    for _ in range(20):
        clock.now += 60.0
        auditor.run_once()
    assert record.find_under_way(books) is None
    with books.begin() as connection:
        connection.execute(text("UPDATE audits SET started_at = now() - interval '301 seconds'"))
    assert run(auditor, clock, books).started_at > first.started_at


def test_an_interval_of_0_turns_it_off(books: Engine, redis_client: redis.Redis, clock: Clock) -> None:
    off = Auditor(books, RqBacklog(redis_client, books), interval_s=0.0, clock=clock)
    for _ in range(20):
        off.run_once()
        clock.now += 600.0
    assert record.find_last(books) is None
    assert record.find_under_way(books) is None


def test_after_each_slice_it_rests(
    auditor: Auditor, clock: Clock, books: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that took a second is followed by some without one, however often the relay comes by."""
    ran_at: list[float] = []

    def slow(*given: Any, **named: Any) -> Slice:
        ran_at.append(clock.now)
        clock.now += 1.0
        return run_slice(*given, **named)

    monkeypatch.setattr(jobs.auditor, "run_slice", slow)
    while len(ran_at) < 5:
        auditor.run_once()
        clock.now += 0.25
    assert ran_at[0] == 0.0
    assert {later - earlier for earlier, later in pairwise(ran_at)} == {1 + REST}
    assert record.find_last(books) is None


def test_another_goes_on_where_one_was_killed(
    *, books: Engine, redis_client: redis.Redis, database_url: str, redis_url: str, auditor: Auditor, clock: Clock
) -> None:
    """Nothing is looked at twice, nothing is passed over: the counts say so."""
    with books.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) SELECT generate_series(5, 400)"))
    redis_client.ping()
    spoil(books)
    command = [sys.executable, "-m", "tests.jobs.auditor_child", database_url, redis_url]
    with Forked(command, cwd=ROOT) as child:
        try:
            assert wait_for(lambda: wallets_seen(books) >= 20, PATIENCE_S)
        finally:
            child.kill()
    seen = wallets_seen(books)
    assert 20 <= seen < 400
    last = run(auditor, clock, books)
    assert (last.wallets, last.entries, last.transfers) == (400, 4, 4)
    assert [(each.invariant, each.ids) for each in last.findings] == [("balance_equals_entries", ["2", "3"])]
    with books.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM audits")).scalar_one() == 1


def wallets_seen(engine: Engine) -> int:
    under_way = record.find_under_way(engine)
    return 0 if under_way is None else under_way.wallets


def test_two_at_once_end_one_audit(books: Engine, redis_client: redis.Redis, clock: Clock) -> None:
    """As when a relay was frozen, lost its lock, and comes back."""
    pair = [Auditor(books, RqBacklog(redis_client, books), interval_s=300.0, clock=clock) for _ in range(2)]

    def pass_time() -> None:
        for auditor in pair:
            auditor.run_once()
        clock.now += 60.0

    def is_finished() -> bool:
        pass_time()
        return record.find_last(books) is not None

    with capture_logs() as logged:
        # Not after so many passes: an audit waits for transactions that were there before, anybody's on this server.
        assert wait_for(is_finished, PATIENCE_S)
        for _ in range(10):
            pass_time()
    assert [line["event"] for line in logged] == ["audit finished"]
    with books.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM audits")).scalar_one() == 1


def test_a_slice_that_takes_too_long_is_followed_by_a_smaller_one(
    books: Engine, redis_client: redis.Redis, database_url: str, clock: Clock
) -> None:
    with bounded_engine(database_url, statement_ms=100) as engine:
        auditor = Auditor(engine, RqBacklog(redis_client, engine), interval_s=300.0, clock=clock)
        while auditor._progress is None or auditor._progress.position.get("walk") != "wallets":
            auditor.run_once()
            clock.now += 60.0
        with locked(books, "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE"), capture_logs() as logged:
            for _ in range(6):
                auditor.run_once()
                clock.now += 60.0
        limits = [max(MIN_SLICE, MAX_SLICE // 4**number) for number in range(1, 7)]
        assert [line["next_limit"] for line in logged] == limits
        assert limits[-1] == MIN_SLICE
        assert {line["event"] for line in logged} == {"slice broken off"}
        assert run(auditor, clock, books).ok


@pytest.mark.parametrize("away", ["postgres", "redis"])
def test_it_raises_nothing_and_goes_on_when_a_server_is_back(
    *,
    books: Engine,
    redis_client: redis.Redis,
    postgres_proxy: TcpProxy,
    redis_proxy: TcpProxy,
    clock: Clock,
    away: str,
) -> None:
    del redis_client  # asked for to be emptied
    proxy = postgres_proxy if away == "postgres" else redis_proxy
    with bounded_engine(postgres_proxy.url) as engine, connect_worker_redis(redis_proxy.url) as client:
        auditor = Auditor(engine, RqBacklog(client, engine), interval_s=300.0, clock=clock)
        proxy.refuse()
        with capture_logs() as logged:
            for _ in range(100):
                auditor.run_once()
                clock.now += RETRY_S / 10
                if sum(line["event"] == "slice broken off" for line in logged) > 2:
                    break
        assert {line["event"] for line in logged} == {"slice broken off"}
        assert len(logged) > 2
        assert record.find_last(books) is None
        proxy.refuse(refusing=False)
        assert run(auditor, clock, books).ok


def test_a_defect_of_its_own_is_logged_and_no_more(books: Engine, auditor: Auditor, clock: Clock) -> None:
    auditor.run_once()
    assert auditor._progress is not None
    auditor._progress.position = {"no such": "thing"}
    with capture_logs() as logged:
        clock.now += 60.0
        auditor.run_once()
        auditor.run_once()  # not at once
    assert [(line["event"], line["log_level"]) for line in logged] == [("background task fails", "error")]
    del books


# --- in the relay's pauses


class Visits:
    """Stands for an auditor, and notes what the relay's passes before it had done."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.after: list[int] = []

    def run_once(self) -> None:
        self.after.append(self.passes[-1])


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Visits:
    visits, run_once = Visits(), Relay.run_once

    def counted(relay: Relay) -> int:
        visits.passes.append(run_once(relay))
        return visits.passes[-1]

    monkeypatch.setattr(Relay, "run_once", counted)
    monkeypatch.setattr(jobs.relay, "PAUSE_S", 0.01)
    return visits


def test_it_runs_after_passes_that_had_nothing_to_do(
    books: Engine, redis_client: redis.Redis, redis_url: str, visits: Visits
) -> None:
    accept(books, 3)
    auditor: Any = visits
    with connect_worker_redis(redis_url) as client, RelayThread(RqBacklog(client, books), books, None, auditor):
        assert wait_for(lambda: len(visits.after) >= 3, PATIENCE_S)
    assert redis_client.llen("rq:queue:transfers") == 3
    assert visits.passes[0] == 3
    assert set(visits.after) == {0}
    assert len(visits.after) == sum(done == 0 for done in visits.passes)


def test_a_worker_audits_beside_its_work(books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter) -> None:
    ids = backlog(books, redis_client, 200)
    worker = start_worker(AUDIT_INTERVAL_S="0.5")
    assert wait_for(lambda: (last := record.find_last(books)) is not None and last.transfers == 204, PATIENCE_S)
    last = record.find_last(books)
    assert last is not None
    assert (last.ok, last.findings) == (True, [])
    worker.stop()
    assert '"event":"audit finished"' in worker.log.read_text()
    assert_posted_once(books, ids)


def test_a_worker_that_is_told_not_to_audits_nothing(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    ids = backlog(books, redis_client, 20)
    worker = start_worker(AUDIT_INTERVAL_S="0")
    assert wait_for(lambda: redis_client.llen("rq:queue:transfers") == 0, PATIENCE_S)
    worker.stop()
    assert_posted_once(books, ids)
    assert record.find_last(books) is None
    assert record.find_under_way(books) is None
