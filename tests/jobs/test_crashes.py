"""Every step between the queue and the books, with a worker killed or frozen just there: one effect, or none."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq.job import requeue_job
from rq.serializers import JSONSerializer
from sqlalchemy import Engine, text

from jobs.killers import MAX_LOST
from jobs.rq.keys import FAILED, STARTED, RqKeys
from ops.local.processes import wait_for
from tests.books import check_books
from tests.jobs.backlog import (
    CANNOT_SERIALIZE,
    OPENING_CENTS,
    accept,
    are_final,
    assert_posted_once,
    backlog,
    balance_of,
    expire_leases,
    fault_on,
    fault_on_all,
    free_turn,
    kill_off,
    locked,
    members,
    queued,
    row_of,
    rows_of,
    status_of,
    statuses,
)
from tests.jobs.conftest import TakeOver, WorkerStarter
from tests.jobs.workers import freezes, kills, terminates
from tests.models.ledger.ordering import count_waiting
from tests.patience import PATIENCE_S

CLAIM = "jobs.rq.keys:RqKeys.claim"
FINISH = "jobs.rq.keys:RqKeys.finish"
HAND_BACK = "jobs.rq.keys:RqKeys.hand_back"
POSTPONE = "jobs.rq.keys:RqKeys.postpone"
BURY = "jobs.rq.keys:RqKeys.bury"
REAP = "jobs.rq.keys:RqKeys.reap"
ENQUEUE = "jobs.rq.keys:RqKeys.feed"
PUSH = "jobs.rq.way_on:RqWayOn._push"
POST = "jobs.settler:post"
SETTLE = "jobs.settler:Settler.settle"
REOPEN = "jobs.settler:Settler.reopen"
REOPEN_UNCOMMITTED = "models.ledger.attempts:reopen"
SPEND = "jobs.settler:Settler._spend"
SPEND_UNCOMMITTED = "models.ledger.attempts:spend"
BOOK = "jobs.rq.worker:BatchWorker._book"
WAIT_FOR_JOBS = "jobs.rq.keys:RqKeys.wait_for_jobs"
HEARTBEAT = "jobs.rq.worker:BatchWorker.heartbeat"
SETTLE_ALONE = "jobs.settler:settle_alone"
COUNT_LOST = "models.ledger.attempts:count_lost"
FIND_DUE = "models.ledger.attempts:find_due"

HEALTHY = [(CLAIM, "after"), (POST, "before"), (POST, "after"), (BOOK, "before"), (FINISH, "before"), (FINISH, "after")]
FAILING = [(SPEND_UNCOMMITTED, "after"), (SPEND, "after"), (FINISH, "after"), (POSTPONE, "before"), (POSTPONE, "after")]
DYING = [(SPEND_UNCOMMITTED, "after"), (SPEND, "after"), (FINISH, "after"), (BURY, "before"), (BURY, "after")]
UNDOING = [(HAND_BACK, "before"), (HAND_BACK, "after")]
REOPENING = [(REOPEN, "before"), (REOPEN_UNCOMMITTED, "after"), (REOPEN, "after"), (POST, "after"), (FINISH, "after")]


def points(points: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """One test for each point."""
    names = [f"{when} {point.partition(':')[2]}" for point, when in points]
    return pytest.mark.parametrize(("point", "when"), points, ids=names)


def assert_redis_agrees(engine: Engine, client: redis.Redis, ids: list[int]) -> None:
    """RQ shows nothing as running or waiting, and as failed what is failed."""
    assert (members(client, STARTED), queued(client)) == ({}, [])
    failed = {str(each) for each, row in rows_of(engine, ids).items() if row.status == "failed"}
    assert members(client, FAILED).keys() == failed


@points(HEALTHY)
def test_a_worker_killed_with_a_healthy_batch(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    ids = backlog(books, redis_client, 20)
    start_worker(kills(point, when)).wait_until_killed()
    take_over(ids)
    assert_posted_once(books, ids)
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_redis_agrees(books, redis_client, ids)


@points(FAILING)
def test_a_worker_killed_while_one_transfer_fails(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    ids = backlog(books, redis_client, 20)
    with fault_on(books, [ids[4]]):
        start_worker(kills(point, when), RETRY_DELAYS="0,0,0,0,0").wait_until_killed()
    assert row_of(books, ids[4]).attempts == (0 if point == SPEND_UNCOMMITTED else 1)
    take_over(ids)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


@points(DYING)
def test_a_worker_killed_while_a_transfer_becomes_a_dead_letter(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    ids = backlog(books, redis_client, 20)
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET attempts = 2 WHERE id = :id"), {"id": ids[4]})
    with fault_on(books, [ids[4]]):
        start_worker(kills(point, when)).wait_until_killed()
        if point != SPEND_UNCOMMITTED:
            take_over(ids)
    if point == SPEND_UNCOMMITTED:  # nobody was told that it failed, so it has not
        take_over(ids)
        assert_posted_once(books, ids)
    else:
        row = row_of(books, ids[4])
        assert (row.status, row.reason, row.attempts) == ("failed", "attempts_exhausted", 3)
        assert_posted_once(books, [each for each in ids if each != ids[4]])
    assert_redis_agrees(books, redis_client, ids)


@points(UNDOING)
def test_a_worker_killed_while_it_hands_a_batch_back(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    ids = backlog(books, redis_client, 20)
    with fault_on_all(books, "entries", CANNOT_SERIALIZE):
        start_worker(kills(point, when)).wait_until_killed()
    assert {row.attempts for row in rows_of(books, ids).values()} == {0}
    take_over(ids)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


@points(REOPENING)
def test_a_worker_killed_while_it_reopens_a_dead_letter(
    *,
    books: Engine,
    redis_client: redis.Redis,
    bury: Callable[[int], object],
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    (letter,) = accept(books, 1)
    kill_off(books, [letter])
    bury(letter)
    requeue_job(str(letter), connection=redis_client, serializer=JSONSerializer)
    start_worker(kills(point, when)).wait_until_killed()
    take_over([letter])
    assert row_of(books, letter).generation == 2
    assert_posted_once(books, [letter])
    assert_redis_agrees(books, redis_client, [letter])


@pytest.fixture
def bury(redis_client: redis.Redis) -> Callable[[int], object]:
    """Book a dead letter."""
    return lambda letter: RqKeys(redis_client).bury(letter, generation=1, error="told to")


@points([(REAP, "after"), (COUNT_LOST, "after"), (FIND_DUE, "after"), (ENQUEUE, "before"), (ENQUEUE, "after")])
def test_a_relay_killed_while_it_brings_back_what_was_lost(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    leased = backlog(books, redis_client, 5)
    start_worker(kills(CLAIM, "after")).wait_until_killed()
    free_turn(books)  # its time is over
    lost = accept(books, 5, first_id=2_000)
    start_worker(kills(point, when)).wait_until_killed()
    take_over([*leased, *lost])
    assert_posted_once(books, [*leased, *lost])
    assert_redis_agrees(books, redis_client, [*leased, *lost])


@points([(PUSH, "before"), (PUSH, "after")])
def test_an_api_process_killed_while_it_enqueues_what_it_has_accepted(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    start_worker(kills(point, when), entry="accept").wait_until_killed()
    with books.connect() as connection:
        query = text("SELECT id FROM transfers WHERE kind = 'transfer' AND status = 'pending'")
        (number,) = connection.execute(query).scalars()
    assert queued(redis_client) == ([] if when == "before" else [str(number)])
    take_over([number])
    assert_posted_once(books, [number])
    assert_redis_agrees(books, redis_client, [number])


@points([(SETTLE_ALONE, "before"), (SETTLE_ALONE, "after")])
def test_a_stock_work_horse_killed_with_its_transfer(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    """RQ calls both failed, which is true of neither; what is posted stays posted when it is requeued from there."""
    ids = backlog(books, redis_client, 2)
    process = start_worker(kills(point, when, id=ids[0]), entry="rq")
    assert process.wait() == 0, process.log.read_text()
    assert [status_of(redis_client, each) for each in ids] == ["failed", "finished"]
    assert row_of(books, ids[0]).status == ("pending" if when == "before" else "posted")
    if when == "after":
        requeue_job(str(ids[0]), connection=redis_client, serializer=JSONSerializer)
    take_over(ids)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


@points([(CLAIM, "before"), (CLAIM, "after"), (POST, "before"), (POST, "after"), (FINISH, "before"), (FINISH, "after")])
def test_a_worker_told_to_stop_at_any_step_leaves_no_job_behind(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    point: str,
    when: str,
) -> None:
    """Stock RQ orphans a job when it is told so between dequeueing it and being busy (rq#2236)."""
    ids = backlog(books, redis_client, 20)
    process = start_worker(terminates(point, when))
    assert process.wait() == 0, process.log.read_text()
    assert_posted_once(books, ids)
    assert {status_of(redis_client, each) for each in ids} == {"finished"}
    assert_redis_agrees(books, redis_client, ids)


@points([(WAIT_FOR_JOBS, "before"), (WAIT_FOR_JOBS, "after"), (HEARTBEAT, "before"), (HEARTBEAT, "after")])
@pytest.mark.usefixtures("books", "redis_client")
def test_an_idle_worker_told_to_stop_stops(*, start_worker: WorkerStarter, point: str, when: str) -> None:
    process = start_worker(terminates(point, when))
    assert process.wait() == 0, process.log.read_text()
    assert "process dies" not in process.log.read_text()


def test_workers_killed_one_after_the_other_at_the_same_batch(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    ids = backlog(books, redis_client, 20)
    for point, when in (HEALTHY[0], HEALTHY[2], HEALTHY[4]):
        free_turn(books)  # the dead one's relay held it
        start_worker(kills(point, when)).wait_until_killed()
    take_over(ids)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


def test_a_transfer_that_kills_its_worker_each_time_ends_failed_and_takes_nobody_with_it(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    ids = backlog(books, redis_client, 12)
    killer, neighbours = ids[5], [each for each in ids if each != ids[5]]
    deaths = 0
    while row_of(books, killer).status == "pending":
        assert deaths < MAX_LOST + 1
        free_turn(books)
        process = start_worker(kills(SETTLE, "before", id=killer), lease_s=0.2)
        deaths += ended_or_gave_up(books, process.look, killer)
        if process.is_running:
            process.stop()
    take_over(ids)
    row = row_of(books, killer)
    assert (row.status, row.reason) == ("failed", "worker_lost")
    assert "worker died" in row.last_error
    assert deaths == MAX_LOST
    assert status_of(redis_client, killer) == "failed"
    assert_posted_once(books, neighbours)
    assert_redis_agrees(books, redis_client, ids)


def ended_or_gave_up(engine: Engine, look: Callable[[], dict[str, Any]], killer: int) -> int:
    """Wait until a worker was killed (1), or its relay has given the transfer up (0)."""
    assert wait_for(lambda: look()["state"] == "ended" or row_of(engine, killer).status != "pending", PATIENCE_S)
    return 1 if look()["state"] == "ended" else 0


FROZEN_HEALTHY = [(CLAIM, "after"), (POST, "before"), (POST, "after"), (BOOK, "before"), (FINISH, "before")]


@points(FROZEN_HEALTHY)
def test_a_worker_frozen_past_its_lease_with_a_healthy_batch(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    """The other one settles everything; what the late one then says and does changes nothing."""
    ids = backlog(books, redis_client, 20)
    late = start_worker(freezes(point, when), IDLE_IN_TRANSACTION_TIMEOUT_MS="100")
    late.wait_until_stopped()
    if when == "after" and point == POST:
        assert wait_for(lambda: not is_anyone_in_a_transaction(books), PATIENCE_S)
    take_over(ids)
    assert_posted_once(books, ids)
    wake_and_stop(late)
    assert_posted_once(books, ids)
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}
    assert_redis_agrees(books, redis_client, ids)


def test_a_worker_frozen_in_the_middle_of_a_statement_loses_its_lease(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    ids = backlog(books, redis_client, 5)
    with locked(books, "SELECT FROM wallets WHERE id = 2 FOR UPDATE"):
        late = start_worker(lease_s=3.0, LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000")
        assert wait_for(lambda: count_waiting(books) == 1, PATIENCE_S), late.log.read_text()
        late.send(signal.SIGSTOP)
        free_turn(books)  # its relay's
        assert wait_for(lambda: is_over(members(redis_client, STARTED), redis_client), PATIENCE_S)
        with books.connect() as connection:  # what it has locked is let go by PostgreSQL, or by whoever finds it frozen
            connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"))
    take_over(ids)
    assert {row.lost_leases for row in rows_of(books, ids).values()} == {1}
    wake_and_stop(late)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


def is_over(leases: dict[str, float], client: redis.Redis) -> bool:
    """Whether each of them has run out."""
    seconds, microseconds = client.time()
    return bool(leases) and max(leases.values()) < seconds + microseconds / 1e6


def test_a_batch_that_a_slow_database_holds_up_beyond_its_lease_keeps_it(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    """One statement of 20 rows, 250 ms each; and the relay beside it looks for leases that have run out."""
    ids = backlog(books, redis_client, 10)
    with fault_on_all(books, "entries", "PERFORM pg_sleep(0.25);"):
        process = start_worker(lease_s=2.0, STATEMENT_TIMEOUT_MS="20000")
        assert wait_for(lambda: are_final(books, ids), PATIENCE_S), process.log.read_text()
    process.stop()
    rows = rows_of(books, ids).values()
    assert {(row.status, row.attempts, row.lost_leases) for row in rows} == {("posted", 1, 0)}
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


def is_anyone_in_a_transaction(engine: Engine) -> bool:
    query = text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'wallet-worker' AND state = 'idle in transaction')"
    )
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar_one())


def wake_and_stop(process: Any) -> None:
    """Let a frozen worker bring its batch to an end, and nothing more."""
    process.send(signal.SIGTERM)
    process.send(signal.SIGCONT)
    assert process.wait() == 0, process.log.read_text()


@points([(SPEND, "before"), (SPEND_UNCOMMITTED, "before"), (POSTPONE, "before"), (BURY, "before"), (FINISH, "before")])
def test_a_worker_frozen_past_its_lease_cannot_fail_what_another_has_posted(
    *,
    books: Engine,
    redis_client: redis.Redis,
    start_worker: WorkerStarter,
    take_over: TakeOver,
    point: str,
    when: str,
) -> None:
    ids = backlog(books, redis_client, 20)
    if point != POSTPONE:  # the late worker's try is the last one
        with books.begin() as connection:
            connection.execute(text("UPDATE transfers SET attempts = 2 WHERE id = :id"), {"id": ids[4]})
    is_dead = point in (BURY, FINISH)
    with fault_on(books, [ids[4]]):
        late = start_worker(freezes(point, when), IDLE_IN_TRANSACTION_TIMEOUT_MS="100")
        late.wait_until_stopped()
        if point == SPEND_UNCOMMITTED:
            assert wait_for(lambda: not is_anyone_in_a_transaction(books), PATIENCE_S)
    if is_dead:  # its attempts ran out, and an administrator has put it back since
        assert row_of(books, ids[4]).status == "failed"
        with books.begin() as connection:
            connection.execute(
                text(
                    "UPDATE transfers SET status = 'pending', reason = NULL, completed_at = NULL, attempts = 0,"
                    " generation = 2 WHERE id = :id"
                ),
                {"id": ids[4]},
            )
    take_over(ids)
    assert_posted_once(books, ids)
    wake_and_stop(late)
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


def test_a_worker_frozen_while_it_hands_back_puts_nothing_into_the_queue_again(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    ids = backlog(books, redis_client, 20)
    with fault_on_all(books, "entries", CANNOT_SERIALIZE):
        late = start_worker(freezes(HAND_BACK, "before"))
        late.wait_until_stopped()
    take_over(ids)
    wake_and_stop(late)
    assert queued(redis_client) == []
    assert_posted_once(books, ids)
    assert_redis_agrees(books, redis_client, ids)


def test_a_late_worker_posts_what_nobody_took_over(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter, take_over: TakeOver
) -> None:
    """Its lease is gone and its jobs stand in the queue again, but posting is true whoever does it."""
    ids = backlog(books, redis_client, 5)
    late = start_worker(freezes(POST, "before"))
    late.wait_until_stopped()
    expire_leases(redis_client)
    wake_and_stop(late)
    assert statuses(books, ids) == {"posted"}
    take_over(ids)
    assert balance_of(books, 2) == OPENING_CENTS + 5
    check_books(books)
    assert_redis_agrees(books, redis_client, ids)
