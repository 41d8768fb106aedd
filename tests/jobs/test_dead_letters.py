"""Dead letters: put back once for each time that they died, by whatever way, and never by accident."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from flask import Flask
from rq.cli.cli import main as rq_command
from rq.job import requeue_job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy import Connection, Engine, text
from structlog.testing import capture_logs

from jobs.dead_letters import CHUNK, DeadLetters
from jobs.relay import Relay
from jobs.rq.keys import FAILED, QUEUE, STARTED, RqKeys
from jobs.rq.way_on import RqWayOn
from jobs.settler import Settler
from models.errors import TransferNotFound, Unavailable
from models.ledger import attempts
from models.redis_line.client import connect_redis
from tests.books import check_books
from tests.jobs.backlog import (
    accept,
    assert_posted_once,
    backlog,
    fault_on,
    hash_of,
    kill_off,
    members,
    queued,
    row_of,
    rows_of,
    status_of,
    statuses,
    stock_queue,
)
from tests.jobs.conftest import DELAYS_S, WorkerMaker, drain
from tests.models.ledger.ordering import bounded_engine
from tests.proxy import TcpProxy


@pytest.fixture
def letters(books: Engine, redis_client: redis.Redis, redis_url: str) -> Iterator[DeadLetters]:
    """Dead letters on real servers."""
    del redis_client  # asked for to be emptied
    with connect_redis(redis_url) as client:
        yield DeadLetters(books, RqWayOn(client))


def dead(engine: Engine, client: redis.Redis, count: int, *, first_id: int = 1_000) -> list[int]:
    """Dead letters, in PostgreSQL and in RQ."""
    ids = accept(engine, count, first_id=first_id)
    kill_off(engine, ids)
    for each in ids:
        RqKeys(client).bury(each, generation=1, error="its attempts ran out")
    return ids


def test_a_dead_letter_that_is_put_back_begins_a_new_life(
    books: Engine, redis_client: redis.Redis, letters: DeadLetters, make_worker: WorkerMaker
) -> None:
    (letter,) = dead(books, redis_client, 1)
    transfer, requeued = letters.requeue(letter, by="somebody")
    assert (requeued, transfer.status, transfer.attempts, transfer.reason) == (True, "pending", 0, None)
    row = row_of(books, letter)
    assert (row.status, row.attempts, row.generation, row.lost_leases) == ("pending", 0, 2, 0)
    assert (row.completed_at, row.due, row.last_error) == (None, True, "told to")
    assert queued(redis_client) == [str(letter)]
    assert (members(redis_client, FAILED), hash_of(redis_client, letter).get("dead")) == ({}, None)
    drain(make_worker())
    assert_posted_once(books, [letter])


def test_asking_twice_puts_back_once(books: Engine, redis_client: redis.Redis, letters: DeadLetters) -> None:
    (letter,) = dead(books, redis_client, 1)
    assert [letters.requeue(letter, by="somebody")[1] for _ in range(3)] == [True, False, False]
    assert row_of(books, letter).generation == 2
    assert queued(redis_client) == [str(letter)]


def test_many_asking_at_once_put_back_once(books: Engine, redis_client: redis.Redis, letters: DeadLetters) -> None:
    (letter,) = dead(books, redis_client, 1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: letters.requeue(letter, by="somebody")[1], range(8)))
    assert sorted(answers) == [False] * 7 + [True]
    assert row_of(books, letter).generation == 2
    assert queued(redis_client) == [str(letter)]


def test_who_put_it_back_is_in_the_log(books: Engine, redis_client: redis.Redis, letters: DeadLetters) -> None:
    (letter,) = dead(books, redis_client, 1)
    with capture_logs() as logged:
        letters.requeue(letter, by="somebody")
        letters.requeue(letter, by="somebody else")
    assert [(line["event"], line.get("job_id"), line.get("by")) for line in logged] == [
        ("dead letter requeued", str(letter), "somebody")
    ]


@pytest.mark.parametrize("status", ["pending", "posted"])
def test_what_is_not_dead_is_left_alone(
    books: Engine, redis_client: redis.Redis, letters: DeadLetters, settler: Settler, status: str
) -> None:
    (number,) = accept(books, 1)
    if status == "posted":
        settler.settle([number])
    before = tuple(row_of(books, number))
    transfer, requeued = letters.requeue(number, by="somebody")
    assert (transfer.status, requeued) == (status, False)
    assert tuple(row_of(books, number)) == before
    assert queued(redis_client) == []


def test_what_is_no_transfer_cannot_be_put_back(letters: DeadLetters) -> None:
    with pytest.raises(TransferNotFound):
        letters.requeue(999, by="somebody")


def test_all_are_put_back_chunk_by_chunk(
    books: Engine, redis_client: redis.Redis, letters: DeadLetters, make_worker: WorkerMaker
) -> None:
    ids = accept(books, 2 * CHUNK + 7)
    kill_off(books, ids)
    (alive,) = accept(books, 1, first_id=50_000)
    assert letters.requeue_all(by="somebody") == len(ids)
    assert letters.requeue_all(by="somebody") == 0
    assert sorted(map(int, queued(redis_client))) == ids
    assert {row.generation for row in rows_of(books, ids).values()} == {2}
    assert row_of(books, alive).generation == 1
    drain(make_worker())
    assert_posted_once(books, ids)


def test_pages_go_from_new_to_old_without_gaps(books: Engine, redis_client: redis.Redis, letters: DeadLetters) -> None:
    ids = dead(books, redis_client, 5)
    first = letters.get_page(size=2)
    assert ([each.id for each in first.transfers], first.next_id) == ([ids[4], ids[3]], ids[3])
    second = letters.get_page(size=2, before_id=ids[3])
    assert ([each.id for each in second.transfers], second.next_id) == ([ids[2], ids[1]], ids[1])
    last = letters.get_page(size=2, before_id=ids[1])
    assert ([each.id for each in last.transfers], last.next_id) == ([ids[0]], None)
    assert letters.get_page(size=5).next_id is None


def test_with_the_database_away_nothing_is_put_back(
    books: Engine, redis_client: redis.Redis, redis_url: str, postgres_proxy: TcpProxy
) -> None:
    (letter,) = dead(books, redis_client, 1)
    with bounded_engine(postgres_proxy.url) as engine, connect_redis(redis_url) as client:
        cut_off = DeadLetters(engine, RqWayOn(client))
        postgres_proxy.refuse()
        for call in (
            lambda: cut_off.requeue(letter, by="somebody"),
            lambda: cut_off.requeue_all(by="somebody"),
            lambda: cut_off.get_page(size=1),
        ):
            with pytest.raises(Unavailable):
                call()
    assert row_of(books, letter).status == "failed"
    assert members(redis_client, FAILED).keys() == {str(letter)}


def test_a_database_that_goes_away_in_mid_requeue_leaves_it_dead(
    books: Engine, redis_client: redis.Redis, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    (letter,) = dead(books, redis_client, 1)
    reopen = attempts.reopen

    def reopen_and_be_cut_off(connection: Connection, generations: dict[int, int]) -> Any:
        reopen(connection, generations)
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    monkeypatch.setattr(attempts, "reopen", reopen_and_be_cut_off)
    with pytest.raises(Unavailable):
        letters.requeue(letter, by="somebody")
    assert (row_of(books, letter).status, row_of(books, letter).generation) == ("failed", 1)
    assert queued(redis_client) == []


def test_with_redis_down_it_is_put_back_and_enqueued_later(
    *,
    books: Engine,
    redis_client: redis.Redis,
    redis_proxy: TcpProxy,
    relay: Relay,
    make_worker: WorkerMaker,
) -> None:
    ids = dead(books, redis_client, 3)
    with connect_redis(redis_proxy.url) as client:
        cut_off = DeadLetters(books, RqWayOn(client))
        redis_proxy.refuse()
        assert cut_off.requeue(ids[0], by="somebody")[1]
        assert cut_off.requeue_all(by="somebody") == 2
    assert statuses(books, ids) == {"pending"}
    assert queued(redis_client) == []
    assert relay.run_once() == 3
    drain(make_worker())
    assert_posted_once(books, ids)
    assert members(redis_client, FAILED) == {}


def test_a_late_worker_cannot_fail_what_was_put_back_meanwhile(
    *,
    books: Engine,
    redis_client: redis.Redis,
    letters: DeadLetters,
    make_worker: WorkerMaker,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between its try and its word, another one has spent the last attempt, and an administrator requeued it."""
    (number,) = backlog(books, redis_client, 1)
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET attempts = 2 WHERE id = :id"), {"id": number})
    spend = attempts.spend

    def overtaken(connection: Connection, *rest: Any, **named: Any) -> Any:
        monkeypatch.setattr(attempts, "spend", spend)
        kill_off(books, [number])
        assert letters.requeue(number, by="somebody")[1]
        return spend(connection, *rest, **named)

    monkeypatch.setattr(attempts, "spend", overtaken)
    late = make_worker()
    with fault_on(books, [number]):
        found = late.dequeue_job_and_maintain_ttl(None)
        assert found is not None
        late.execute_job(*found)
    row = row_of(books, number)
    assert (row.status, row.attempts, row.generation) == ("pending", 0, 2)
    assert members(redis_client, FAILED) == {}
    relay.run_once()
    drain(make_worker())
    assert_posted_once(books, [number])


def test_a_late_booking_of_the_old_death_does_not_hold_up_the_new_life(
    *, books: Engine, redis_client: redis.Redis, letters: DeadLetters, relay: Relay, make_worker: WorkerMaker
) -> None:
    """It was put back after it was failed in PostgreSQL and before its worker told Redis."""
    (number,) = backlog(books, redis_client, 1)
    worker = make_worker()
    found = worker.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    claim = found[0]
    kill_off(books, [number])
    assert letters.requeue(number, by="somebody")[1]
    worker._bury(claim, number, 1, "its attempts ran out")
    assert status_of(redis_client, number) == "failed"
    assert relay.run_once() == 1
    drain(worker)
    assert_posted_once(books, [number])
    assert members(redis_client, FAILED) == {}


def test_requeued_from_rq_a_dead_letter_is_tried_with_all_its_attempts(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, relay: Relay
) -> None:
    (letter,) = dead(books, redis_client, 1)
    requeue_job(str(letter), connection=redis_client, serializer=JSONSerializer)
    worker = make_worker()
    with fault_on(books, [letter]), capture_logs() as logged:
        drain(worker)
        row = row_of(books, letter)
        assert (row.status, row.generation, row.attempts) == ("pending", 2, 1)
        for _ in DELAYS_S:
            with books.begin() as connection:
                connection.execute(text("UPDATE transfers SET next_attempt_at = now()"))
            relay.run_once()
            drain(worker)
    row = row_of(books, letter)
    assert (row.status, row.generation, row.attempts) == ("failed", 2, 3)
    assert [line["by"] for line in logged if line["event"] == "dead letter requeued"] == ["rq"]
    assert hash_of(redis_client, letter)["dead"] == b"2"
    # And once more.
    requeue_job(str(letter), connection=redis_client, serializer=JSONSerializer)
    drain(worker)
    assert row_of(books, letter).generation == 3
    assert_posted_once(books, [letter])


def test_all_are_requeued_by_rqs_own_command(
    books: Engine, redis_client: redis.Redis, redis_url: str, make_worker: WorkerMaker
) -> None:
    ids = dead(books, redis_client, 5)
    command = ["requeue", "--queue", "transfers", "--all", "--url", redis_url]
    told = CliRunner().invoke(rq_command, [*command, "--serializer", "rq.serializers.JSONSerializer"])
    assert told.exit_code == 0, told.output
    drain(make_worker())
    assert_posted_once(books, ids)
    assert members(redis_client, FAILED) == {}


def test_a_stale_duplicate_in_the_queue_does_not_raise_the_dead(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, relay: Relay
) -> None:
    (letter,) = dead(books, redis_client, 1)
    redis_client.rpush(QUEUE, letter, letter)
    drain(make_worker())
    relay.run_once()
    row = row_of(books, letter)
    assert (row.status, row.generation) == ("failed", 1)
    assert members(redis_client, FAILED).keys() == {str(letter)}
    assert (queued(redis_client), members(redis_client, STARTED)) == ([], {})


def test_a_job_that_was_merely_enqueued_does_not_raise_the_dead(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    """Its death was never booked: a repeated request enqueued it, or its worker died before it could say so."""
    (letter,) = backlog(books, redis_client, 1)
    kill_off(books, [letter])
    drain(make_worker())
    row = row_of(books, letter)
    assert (row.status, row.generation) == ("failed", 1)
    assert members(redis_client, FAILED).keys() == {str(letter)}
    assert hash_of(redis_client, letter)["dead"] == b"1"


def test_a_requeue_from_rq_that_is_found_twice_reopens_once(
    books: Engine, redis_client: redis.Redis, settler: Settler
) -> None:
    """Its worker may be killed at any step, and another one finds the same mark."""
    (letter,) = dead(books, redis_client, 1)
    settler.reopen({letter: 1})
    settler.reopen({letter: 1})
    assert row_of(books, letter).generation == 2
    kill_off(books, [letter])
    settler.reopen({letter: 1})  # it died anew, in its second life, and nobody has asked for a third
    assert (row_of(books, letter).status, row_of(books, letter).generation) == ("failed", 2)


def test_a_requeue_of_rqs_that_was_killed_half_way_can_be_repeated_here(
    *,
    books: Engine,
    redis_client: redis.Redis,
    letters: DeadLetters,
    relay: Relay,
    make_worker: WorkerMaker,
) -> None:
    """Gone from RQ's failed registry, and in no queue; PostgreSQL still has it as a dead letter."""
    (letter,) = dead(books, redis_client, 1)
    registry = FailedJobRegistry(queue=stock_queue(redis_client))
    killed = pytest.MonkeyPatch()
    with killed.context() as patches:
        patches.setattr("rq.queue.Queue._enqueue_job", die)
        with pytest.raises(SystemExit):
            registry.requeue(str(letter))
    assert (members(redis_client, FAILED), queued(redis_client)) == ({}, [])
    relay.run_once()
    assert row_of(books, letter).status == "failed"
    assert [each.id for each in letters.get_page(size=5).transfers] == [letter]
    assert letters.requeue(letter, by="somebody")[1]
    drain(make_worker())
    assert_posted_once(books, [letter])


def die(*_: object, **__: object) -> None:
    raise SystemExit


def test_the_command_line_says_who_it_was(app: Flask, books: Engine, redis_client: redis.Redis) -> None:
    ids = dead(books, redis_client, 3)
    with capture_logs() as logged:
        told = app.test_cli_runner().invoke(args=["dead-letters", "requeue", str(ids[0])])
        assert (told.exit_code, told.output) == (0, f"{ids[0]}\trequeued\n")
        again = app.test_cli_runner().invoke(args=["dead-letters", "requeue", str(ids[0])])
        assert again.output == f"{ids[0]}\tleft alone, it is pending\n"
        everything = app.test_cli_runner().invoke(args=["dead-letters", "requeue", "--all"])
        assert everything.output == "requeued 2\n"
    by = [line["by"] for line in logged if line["event"] == "dead letter requeued"]
    assert len(by) == 3
    assert all(each.endswith(" (command line)") for each in by)
    assert app.test_cli_runner().invoke(args=["dead-letters", "list"]).output == ""
    check_books(books)
