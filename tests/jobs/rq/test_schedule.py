"""RQ's scheduled registry shows what is to come, as stock RQ would; nothing is lost with it, and nothing is early."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from rq import Queue
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from sqlalchemy import Engine
from structlog.testing import capture_logs

import jobs.rq.keys
import jobs.rq.schedule
from jobs.connections import connect_worker_redis
from jobs.relay import Relay
from jobs.rq.audit_queue import QueueCheck
from jobs.rq.keys import FINISHED, SCHEDULED, ComingJob, RqKeys
from jobs.rq.schedule import Schedule
from jobs.rq.way_on import RqWayOn
from models.errors import NotCancelable, Unavailable
from models.ledger import attempts, cancellation
from ops.local.processes import wait_for
from tests.books import check_books
from tests.jobs.backlog import (
    accept,
    are_final,
    assert_posted_once,
    balance_of,
    due,
    enqueue,
    fault_on,
    hash_of,
    job_of,
    members,
    plan,
    queued,
    row_of,
    rows_of,
    status_of,
    statuses,
    stock_queue,
)
from tests.jobs.conftest import TakeOver, WorkerMaker, WorkerStarter, drain
from tests.jobs.workers import kills
from tests.models.ledger.ordering import come
from tests.patience import PATIENCE_S

HOUR_S = 3_600.0
AT = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def way_on(redis_url: str, redis_client: redis.Redis) -> Iterator[RqWayOn]:
    """The way on of a process of the API."""
    del redis_client  # asked for to be emptied
    way_on = RqWayOn(connect_worker_redis(redis_url))
    yield way_on
    way_on.close()


def registry_of(client: redis.Redis) -> ScheduledJobRegistry:
    """RQ's own view of it."""
    return ScheduledJobRegistry(queue=stock_queue(client))  # type: ignore[no-untyped-call]


def shown(client: redis.Redis) -> set[int]:
    return {int(each) for each in members(client, SCHEDULED)}


# --- what it looks like


def test_a_planned_job_looks_to_rq_as_one_that_was_enqueued_for_that_instant(
    redis_client: redis.Redis, keys: RqKeys
) -> None:
    assert keys.show([ComingJob(7, TRACE, AT)]) == 1
    stock = Queue("others", connection=redis_client, serializer=JSONSerializer)
    stock.enqueue_at(AT, "jobs.transfers.run", "8", job_id="8", meta={"tp": TRACE})
    ours, theirs = job_of(redis_client, 7), job_of(redis_client, 8)
    assert ours.get_status() == theirs.get_status() == "scheduled"
    assert (ours.func_name, ours.args, ours.meta) == (theirs.func_name, ["7"], theirs.meta)
    assert (ours.enqueued_at, ours.started_at, ours.ended_at) == (None, None, None)
    registry = registry_of(redis_client)
    assert registry.get_job_ids(cleanup=False) == ["7"]
    theirs_at = ScheduledJobRegistry(queue=stock).get_scheduled_time("8")  # type: ignore[no-untyped-call]
    assert registry.get_scheduled_time("7") == theirs_at == AT
    assert queued(redis_client) == []


def test_to_show_it_again_changes_nothing_but_when(redis_client: redis.Redis, keys: RqKeys) -> None:
    keys.show([ComingJob(7, None, AT)])
    before = hash_of(redis_client, 7)
    assert keys.show([ComingJob(7, None, AT + timedelta(seconds=5))]) == 0
    assert hash_of(redis_client, 7) == before
    assert members(redis_client, SCHEDULED) == {"7": AT.timestamp() + 5}


def test_what_the_queue_or_a_worker_has_is_left_alone(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, make_worker: WorkerMaker
) -> None:
    enqueue(redis_client, accept(books, 2))
    make_worker(batch_size=1).claim()
    assert keys.show([ComingJob(each, None, AT) for each in (1_000, 1_001)]) == 0
    assert {status_of(redis_client, each) for each in (1_000, 1_001)} == {"queued", "started"}
    assert shown(redis_client) == set()


def test_of_more_than_may_be_shown_the_soonest_are(
    redis_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.rq.keys, "MOST_SCHEDULED", 5)
    when = {number: AT + timedelta(minutes=number * 7 % 10) for number in range(10)}
    for number, instant in when.items():
        keys.show([ComingJob(number + 1, None, instant)])
    soonest = {number + 1 for number in sorted(when, key=when.__getitem__)[:5]}
    assert shown(redis_client) == soonest
    assert {number for number in range(1, 11) if hash_of(redis_client, number)} == soonest


def test_a_process_of_the_api_shows_what_is_planned_and_takes_off_what_was_called_off(
    books: Engine, redis_client: redis.Redis, way_on: RqWayOn
) -> None:
    first, second = plan(books, 2, seconds=HOUR_S)
    for each in (first, second):
        way_on.show_planned(due(each, trace=TRACE), row_of(books, each).not_before)
    assert wait_for(lambda: shown(redis_client) == {first, second}, PATIENCE_S)
    cancellation.cancel(books, first)
    way_on.take_off(first)
    assert wait_for(lambda: shown(redis_client) == {second}, PATIENCE_S)
    assert status_of(redis_client, first) == "finished"
    assert members(redis_client, FINISHED).keys() == {str(first)}
    way_on.take_off(999)  # which nothing shows
    way_on.show_planned(due(7), AT)
    assert wait_for(lambda: shown(redis_client) == {second, 7}, PATIENCE_S)
    assert hash_of(redis_client, 999) == {}


# --- what keeps it true


def test_after_a_flush_the_relay_shows_again_what_is_to_come(
    books: Engine, redis_client: redis.Redis, relay: Relay, make_worker: WorkerMaker
) -> None:
    planned = plan(books, 3, seconds=HOUR_S)
    (retried,) = accept(books, 1, first_id=2_000)
    enqueue(redis_client, [retried])
    with fault_on(books, [retried]):
        drain(make_worker())
    assert shown(redis_client) == {retried}
    redis_client.flushall()
    assert relay.run_once() == 0
    assert shown(redis_client) == {*planned, retried}
    assert registry_of(redis_client).get_scheduled_time(str(planned[0])) == (row_of(books, planned[0]).not_before)
    assert relay.run_once() == 0
    assert queued(redis_client) == []


def test_a_bounded_number_is_looked_at_and_those_are_the_next(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.rq.schedule, "MOST_LOOKED_AT", 10)
    later = plan(books, 30, seconds=HOUR_S)
    sooner = plan(books, 5, seconds=60.0, first_id=2_000)
    schedule = Schedule(keys, books)
    schedule.keep_if_due()
    assert set(sooner) < shown(redis_client) <= {*sooner, *later}
    assert len(shown(redis_client)) == 10


def test_what_is_over_is_taken_off_page_by_page(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was called off while Redis was away, or by a process that was killed before it could tell."""
    monkeypatch.setattr(jobs.rq.schedule, "MOST_LOOKED_AT", 10)
    ids = plan(books, 35, seconds=HOUR_S)
    keys.show([ComingJob(each, None, AT) for each in ids])
    for each in (canceled := ids[::5]):
        cancellation.cancel(books, each)
    now = [0.0]
    schedule = Schedule(keys, books, clock=lambda: now[0])
    for _ in range(8):  # twice through all pages: what is taken off moves up those behind it
        schedule.keep_if_due()
        now[0] += jobs.rq.schedule.LOOK_S
    assert shown(redis_client) == set(ids) - set(canceled)
    assert {status_of(redis_client, each) for each in canceled} == {"finished"}


def test_a_database_that_does_not_answer_that_holds_up_nothing_else(
    books: Engine, redis_client: redis.Redis, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_slow(*_: object, **__: object) -> None:
        raise Unavailable

    ids = accept(books, 3)
    monkeypatch.setattr(attempts, "find_coming", be_slow)
    with capture_logs() as lines:
        assert relay.run_once() == len(ids)
    assert "schedule not looked at" in {line["event"] for line in lines}
    assert queued(redis_client) == [str(each) for each in ids]


def test_one_that_took_long_rests_for_longer(books: Engine, keys: RqKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    now = [0.0]

    def take_long(*_: object, **__: object) -> list[Any]:
        looks.append(now[0])
        now[0] += 1.0
        return []

    monkeypatch.setattr(attempts, "find_coming", take_long)
    schedule = Schedule(keys, books, clock=lambda: now[0])
    for _ in range(120):
        schedule.keep_if_due()
        now[0] += 1.0
    assert looks == [0.0, 51.0, 102.0]


def test_the_audit_of_the_queue_finds_nothing_wrong_with_what_is_planned(
    books: Engine, keys: RqKeys, relay: Relay
) -> None:
    ids = plan(books, 3, seconds=HOUR_S)
    cancellation.cancel(books, ids[0])
    relay.run_once()
    found: Any = QueueCheck(books, keys).run({}, 100)
    while found.position is not None:
        assert not found.position["suspects"]
        found = QueueCheck(books, keys).run(found.position, 100)
    assert not found.findings


# --- nobody is early


def test_an_id_that_comes_early_is_not_posted_nor_tried_over_and_over(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    early, ids = plan(books, 3, seconds=HOUR_S), accept(books, 2, first_id=2_000)
    enqueue(redis_client, [*early, *ids])
    assert drain(make_worker()) == 1
    assert queued(redis_client) == []
    assert members(redis_client, SCHEDULED) == {
        str(each): pytest.approx(row.not_before.timestamp(), abs=1e-3) for each, row in rows_of(books, early).items()
    }
    assert {row.attempts for row in rows_of(books, early).values()} == {0}
    assert statuses(books, early) == {"pending"}
    assert_posted_once(books, ids)


def test_stock_rq_may_run_one_early_and_it_comes_when_it_is_due(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    early = plan(books, 2, seconds=HOUR_S)
    enqueue(redis_client, early)
    assert start_worker(entry="rq").wait() == 0
    assert {status_of(redis_client, each) for each in early} == {"finished"}
    assert job_of(redis_client, early[0]).return_value() == "pending"
    assert statuses(books, early) == {"pending"}
    come(books, *early)
    take_over(early)
    assert_posted_once(books, early)


def test_stock_rqs_scheduler_puts_on_the_queue_what_is_due_and_it_is_posted_once(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, take_over: TakeOver
) -> None:
    """As it does beside ``rq worker --with-scheduler``."""
    early, ids = plan(books, 1, seconds=HOUR_S), plan(books, 3, seconds=-2.0, first_id=2_000)
    keys.show([ComingJob(each, None, row.not_before) for each, row in rows_of(books, [*early, *ids]).items()])
    scheduler = RQScheduler([stock_queue(redis_client)], connection=redis_client, serializer=JSONSerializer)
    scheduler.acquire_locks()  # type: ignore[no-untyped-call]
    scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
    assert set(queued(redis_client)) == {str(each) for each in ids}
    take_over(ids)
    assert shown(redis_client) == set(early)
    assert_posted_once(books, ids)


# --- when the instant comes


def test_thousands_that_are_due_at_once_are_fed_page_by_page_in_the_order_of_their_ids(
    books: Engine, redis_client: redis.Redis, relay: Relay, take_over: TakeOver
) -> None:
    ids = plan(books, 2_500, seconds=HOUR_S)
    assert relay.run_once() == 0
    come(books, *ids)
    assert relay.run_once() == len(ids)
    assert queued(redis_client) == [str(each) for each in ids]
    assert shown(redis_client) == set()
    take_over(ids)
    assert_posted_once(books, ids)


@pytest.mark.parametrize("fault", ["none", "flush", "kill"])
def test_a_worker_tries_it_then_and_not_before_whatever_is_lost(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, fault: str
) -> None:
    others = plan(books, 1, seconds=HOUR_S, first_id=9_000)
    ids = plan(books, 20, seconds=1.5)
    enqueue(redis_client, ids[:5])  # somebody brings them early
    if fault == "kill":
        start_worker(kills("jobs.settler:post", "before")).wait_until_killed()
    worker = start_worker()
    if fault == "flush":
        redis_client.flushall()
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), worker.log.read_text()
    rows = rows_of(books, ids).values()
    assert {(row.status, row.attempts) for row in rows} == {("posted", 1)}
    assert all(row.completed_at >= row.not_before for row in rows)
    assert statuses(books, others) == {"pending"}
    assert wait_for(lambda: shown(redis_client) == set(others), PATIENCE_S)
    worker.stop()
    check_books(books)


# --- called off


def test_a_worker_that_gets_one_that_was_called_off_books_it_as_finished(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    canceled, *ids = accept(books, 3)
    enqueue(redis_client, [canceled, *ids])
    cancellation.cancel(books, canceled)
    assert drain(make_worker()) == 1
    assert {status_of(redis_client, each) for each in (canceled, *ids)} == {"finished"}
    assert row_of(books, canceled).status == "canceled"
    assert_posted_once(books, ids)


def test_raced_with_a_worker_each_is_posted_or_canceled_and_whoever_asks_is_told_which(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, take_over: TakeOver
) -> None:
    workers = [make_worker(batch_size=7) for _ in range(2)]
    ids = accept(books, 300)
    enqueue(redis_client, ids)

    def cancel_all() -> dict[int, bool | None]:
        return {each: cancel(books, each) for each in reversed(ids)}

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(drain, each) for each in workers]
        told = pool.submit(cancel_all).result(PATIENCE_S)
        for each in working:
            each.result(PATIENCE_S)
    take_over(ids)
    found = {each: row.status for each, row in rows_of(books, ids).items()}
    assert found == {each: "canceled" if was_canceled else "posted" for each, was_canceled in told.items()}
    posted = sum(status == "posted" for status in found.values())
    assert balance_of(books, 2) - balance_of(books, 4) == posted
    check_books(books)
    assert {status_of(redis_client, each) for each in ids} == {"finished"}


def cancel(engine: Engine, transfer_id: int) -> bool | None:
    """Return whether it was canceled by this; None: it is being tried."""
    try:
        return cancellation.cancel(engine, transfer_id)
    except NotCancelable:
        return None
