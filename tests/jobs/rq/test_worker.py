"""The batching worker: an RQ worker to whoever looks at it, that goes on by itself after every fault around it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from redis.commands.core import Script
from rq import Queue, SimpleWorker, Worker
from rq.cli.cli import main as rq_command
from rq.command import send_shutdown_command
from rq.exceptions import StopRequested
from rq.job import requeue_job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker_registration import unregister
from sqlalchemy import Engine, text

import jobs.rq.worker
from jobs.connections import WORKER_ANSWER_TIMEOUT_S, connect_worker_redis
from jobs.rq.keys import FAILED, FINISHED, QUEUE, SCHEDULED, STARTED, RqKeys
from jobs.rq.resident import WORKER_TTL_S
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
    enqueue,
    expire_leases,
    fault_on,
    fault_on_all,
    hash_of,
    job_of,
    kill_off,
    locked,
    members,
    names_in,
    queued,
    row_of,
    rows_of,
    status_of,
    statuses,
    stock_queue,
)
from tests.jobs.conftest import TakeOver, WorkerMaker, WorkerStarter, drain
from tests.models.ledger.ordering import bounded_engine, count_waiting
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy

# Long enough for a slow machine to run any batch here in.
LONG_LEASE_S = 60.0


def wait_until(condition: Callable[[], bool], about: Callable[[], object] = lambda: "") -> None:
    assert wait_for(condition, PATIENCE_S), about()


def only_worker(client: redis.Redis) -> Worker:
    """The one worker that RQ knows."""
    (found,) = Worker.all(connection=client)
    assert isinstance(found, Worker)
    return found


def is_idle(client: redis.Redis) -> bool:
    return [each.get_state() for each in Worker.all(connection=client)] == ["idle"]


# --- as a process


def test_the_worker_as_it_is_started_drains_a_backlog_and_stops_when_told(
    books: Engine, redis_client: redis.Redis, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    ids = backlog(books, redis_client, 1_000)
    environment = {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "LOG_LEVEL": "INFO"}
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = Forked(
            [sys.executable, "worker.py"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: are_final(books, ids))
        wait_until(lambda: len(members(redis_client, FINISHED)) == len(ids))
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert log.read_text().count('"transfer settled"') == len(ids)
    assert (members(redis_client, STARTED), queued(redis_client)) == ({}, [])
    assert Worker.all(connection=redis_client) == []
    assert_posted_once(books, ids)


def test_rq_sees_a_living_worker_and_what_it_did(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    ids = backlog(books, redis_client, 7)
    process = start_worker()
    wait_until(lambda: are_final(books, ids))
    wait_until(lambda: is_idle(redis_client))
    worker = only_worker(redis_client)
    assert (worker.pid, worker.queue_names(), worker.successful_job_count) == (process.pid, ["transfers"], 7)
    assert worker.total_working_time > 0
    before = worker.last_heartbeat
    assert isinstance(before, datetime)
    wait_until(lambda: (only_worker(redis_client).last_heartbeat or before) > before)
    assert 0 < int(redis_client.ttl(worker.key)) <= WORKER_TTL_S + 60
    process.stop()
    assert Worker.all(connection=redis_client) == []


def test_a_worker_that_redis_has_forgotten_registers_again(
    redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    process = start_worker()
    wait_until(lambda: is_idle(redis_client))
    name = only_worker(redis_client).name
    redis_client.flushdb()
    wait_until(lambda: is_idle(redis_client))
    worker = only_worker(redis_client)
    assert (worker.name, worker.pid, worker.queue_names()) == (name, process.pid, ["transfers"])
    assert 0 < int(redis_client.ttl(worker.key)) <= WORKER_TTL_S + 60
    process.stop()


def test_suspended_workers_take_nothing_until_they_are_resumed(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    process = start_worker()
    wait_until(lambda: is_idle(redis_client))
    suspend(redis_client)
    wait_until(lambda: only_worker(redis_client).get_state() == "suspended")
    ids = backlog(books, redis_client, 5)
    before = only_worker(redis_client).last_heartbeat
    assert before is not None
    # It goes round, says that it lives, and takes nothing.
    wait_until(lambda: (only_worker(redis_client).last_heartbeat or before) > before)
    assert queued(redis_client) == [str(each) for each in ids]
    assert statuses(books, ids) == {"pending"}
    resume(redis_client)
    wait_until(lambda: are_final(books, ids))
    assert_posted_once(books, ids)
    process.stop()


def test_a_suspended_worker_stops_when_told(redis_client: redis.Redis, start_worker: WorkerStarter) -> None:
    suspend(redis_client)
    process = start_worker()
    wait_until(lambda: [each.get_state() for each in Worker.all(connection=redis_client)] == ["suspended"])
    process.stop()


def test_a_batch_that_is_running_when_the_worker_is_told_to_stop_comes_to_its_end(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    running = backlog(books, redis_client, 5)
    with locked(books, "SELECT FROM wallets WHERE id = 2 FOR UPDATE"):
        process = start_worker(lease_s=LONG_LEASE_S, LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000")
        wait_until(lambda: count_waiting(books) == 1, process.log.read_text)
        waiting = backlog(books, redis_client, 5, first_id=2_000)
        process.send(signal.SIGTERM)
        worker = only_worker(redis_client)
        wait_until(lambda: worker.shutdown_requested_date is not None)
        assert process.is_running
    assert process.wait() == 0, process.log.read_text()
    assert_posted_once(books, running)
    assert {status_of(redis_client, each) for each in running} == {"finished"}
    # And nothing else was begun.
    assert queued(redis_client) == [str(each) for each in waiting]
    assert members(redis_client, STARTED) == {}


def test_rq_info_changes_nothing_that_a_worker_does(
    books: Engine, redis_client: redis.Redis, redis_url: str, start_worker: WorkerStarter
) -> None:
    """It cleans up what it counts."""
    (poison,) = backlog(books, redis_client, 1, first_id=3_000)
    process = start_worker(lease_s=LONG_LEASE_S, LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000")
    with fault_on(books, [poison]):
        wait_until(lambda: members(redis_client, FAILED).keys() == {str(poison)})
    with locked(books, "SELECT FROM wallets WHERE id = 2 FOR UPDATE"):
        running = backlog(books, redis_client, 2)
        wait_until(lambda: count_waiting(books) == 1)
        backlog(books, redis_client, 3, first_id=2_000)
        told = CliRunner().invoke(rq_command, ["info", "--raw", "--url", redis_url])
        assert told.exit_code == 0, told.output
        assert told.output.startswith("queue transfers 3, 2 executing, 0 finished, 1 failed")
        assert "busy" in told.output
        pretty = CliRunner().invoke(rq_command, ["info", "--url", redis_url])
        assert "transfers" in pretty.output
        assert "3, 2 executing, 0 finished, 1 failed" in pretty.output
        assert len(members(redis_client, STARTED)) == 2
    wait_until(lambda: are_final(books, running))
    process.stop()


def test_redis_goes_away_and_comes_back(
    books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    before = backlog(books, redis_client, 20)
    process = start_worker(REDIS_URL=redis_proxy.url)
    wait_until(lambda: are_final(books, before))
    redis_proxy.refuse()
    wait_until(lambda: process.log.read_text().count('"waiting"') >= 3)
    meanwhile = accept(books, 20, first_id=2_000)
    redis_proxy.refuse(refusing=False)
    wait_until(lambda: are_final(books, meanwhile), process.log.read_text)
    process.stop()
    assert_posted_once(books, [*before, *meanwhile])
    assert {row.attempts for row in rows_of(books, [*before, *meanwhile]).values()} == {1}


def test_redis_goes_away_in_mid_batch_and_comes_back(
    books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    """What was posted could not be booked, and is found to be final when its lease is over."""
    with locked(books, "SELECT FROM wallets WHERE id = 2 FOR UPDATE"):
        ids = backlog(books, redis_client, 20)
        process = start_worker(REDIS_URL=redis_proxy.url, LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000")
        wait_until(lambda: count_waiting(books) == 1, process.log.read_text)
        redis_proxy.refuse()
    wait_until(lambda: are_final(books, ids))
    wait_until(lambda: process.log.read_text().count('"waiting"') >= 3, process.log.read_text)
    assert len(members(redis_client, STARTED)) == 20
    redis_proxy.refuse(refusing=False)
    wait_until(lambda: not members(redis_client, STARTED) and not queued(redis_client), process.log.read_text)
    process.stop()
    assert_posted_once(books, ids)
    assert {status_of(redis_client, each) for each in ids} == {"finished"}
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}


def test_a_redis_that_hangs_is_found_out_and_waited_for(
    books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    process = start_worker(REDIS_URL=redis_proxy.url, answer_s=jobs.rq.worker.IDLE_WAIT_S + 0.5)
    wait_until(lambda: is_idle(redis_client))
    redis_proxy.hold()
    wait_until(lambda: '"cause":"TimeoutError"' in process.log.read_text(), process.log.read_text)
    ids = backlog(books, redis_client, 20)
    redis_proxy.resume()
    wait_until(lambda: are_final(books, ids), process.log.read_text)
    process.stop()
    assert_posted_once(books, ids)


def test_the_patience_with_a_silent_redis_is_ours_and_not_rqs(make_worker: WorkerMaker) -> None:
    """RQ would raise it to 25 seconds, far beyond a lease."""
    worker = make_worker()
    assert worker.connection.connection_pool.connection_kwargs["socket_timeout"] == WORKER_ANSWER_TIMEOUT_S
    assert jobs.rq.worker.LEASE_S > WORKER_ANSWER_TIMEOUT_S > jobs.rq.worker.IDLE_WAIT_S


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_worker_stops_when_told_while_redis_is_away(
    redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter, fault: str
) -> None:
    process = start_worker(REDIS_URL=redis_proxy.url, answer_s=jobs.rq.worker.IDLE_WAIT_S + 0.5)
    wait_until(lambda: is_idle(redis_client))
    if fault == "refuses":
        redis_proxy.refuse()
    else:
        redis_proxy.hold()
    wait_until(lambda: '"waiting"' in process.log.read_text())
    process.stop()
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_postgresql_goes_away_and_comes_back(
    books: Engine, redis_client: redis.Redis, postgres_proxy: TcpProxy, start_worker: WorkerStarter, fault: str
) -> None:
    before = backlog(books, redis_client, 20)
    process = start_worker(DATABASE_URL=postgres_proxy.url, STATEMENT_TIMEOUT_MS="500", lease_s=LONG_LEASE_S)
    wait_until(lambda: are_final(books, before))
    if fault == "refuses":
        postgres_proxy.refuse()
    else:
        postgres_proxy.hold()
    meanwhile = backlog(books, redis_client, 20, first_id=2_000)
    wait_until(lambda: '"on":"database"' in process.log.read_text(), process.log.read_text)
    postgres_proxy.break_all()
    postgres_proxy.refuse(refusing=False)
    postgres_proxy.resume()
    wait_until(lambda: are_final(books, meanwhile), process.log.read_text)
    process.stop()
    assert_posted_once(books, [*before, *meanwhile])
    assert {row.attempts for row in rows_of(books, [*before, *meanwhile]).values()} == {1}
    assert members(redis_client, STARTED) == {}


def test_a_worker_is_up_before_redis_is(
    books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    redis_proxy.refuse()
    ids = backlog(books, redis_client, 3)
    process = start_worker(REDIS_URL=redis_proxy.url)
    wait_until(lambda: '"waiting"' in process.log.read_text())
    redis_proxy.refuse(refusing=False)
    wait_until(lambda: are_final(books, ids), process.log.read_text)
    process.stop()


# --- step by step


def test_a_batch_is_no_larger_than_it_is_set_to(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 25)
    assert drain(make_worker(batch_size=10)) == 3
    assert_posted_once(books, ids)


def test_every_outcome_is_booked_where_rq_looks_for_it(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    posted = backlog(books, redis_client, 3)
    (poor,) = backlog(books, redis_client, 1, first_id=2_000, cents=OPENING_CENTS + 1)
    (retried,) = backlog(books, redis_client, 1, first_id=3_000)
    (dying,) = backlog(books, redis_client, 1, first_id=4_000)
    (dead,) = backlog(books, redis_client, 1, first_id=5_000)
    kill_off(books, [dead])
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET attempts = 2 WHERE id = :id"), {"id": dying})
    worker = make_worker()
    with fault_on(books, [retried, dying]):
        drain(worker)
    assert {status_of(redis_client, each) for each in (*posted, poor)} == {"finished"}
    assert status_of(redis_client, retried) == "scheduled"
    due = row_of(books, retried).next_attempt_at
    assert members(redis_client, SCHEDULED) == {str(retried): pytest.approx(due.timestamp())}
    assert members(redis_client, FAILED).keys() == {str(dying), str(dead)}
    for each in (dying, dead):
        result = job_of(redis_client, each).latest_result()
        assert result is not None
        assert "last_error" in str(result.exc_string)
        assert hash_of(redis_client, each)["dead"] == b"1"
    assert (members(redis_client, STARTED), queued(redis_client)) == ({}, [])
    check_books(books)


def test_a_fault_of_the_database_hands_the_batch_back_in_its_order(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, no_pause: None
) -> None:
    del no_pause
    ids = backlog(books, redis_client, 9)
    worker = make_worker(batch_size=4)
    with fault_on_all(books, "entries", CANNOT_SERIALIZE):
        found = worker.dequeue_job_and_maintain_ttl(None)
        assert found is not None
        worker.execute_job(*found)
    assert queued(redis_client) == [str(each) for each in ids]
    assert members(redis_client, STARTED) == {}
    assert {row.attempts for row in rows_of(books, ids).values()} == {0}
    drain(worker)
    assert_posted_once(books, ids)


def test_an_id_that_stands_in_the_queue_many_times_has_one_effect(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 10)
    for _ in range(3):
        redis_client.rpush(QUEUE, *ids)
    first, second = make_worker(batch_size=7), make_worker(batch_size=7)
    while drain(first) + drain(second):
        pass
    redis_client.rpush(QUEUE, *ids)  # and again when all is done
    drain(first)
    assert_posted_once(books, ids)
    assert members(redis_client, FAILED) == {}
    assert {row.attempts for row in rows_of(books, ids).values()} == {1}


GARBAGE = ["abc", "", "-7", "007", "1.0", "²", "٣", "9" * 19, "9" * 40, "1000:x", "1_000", " 1000", "rq:job:1"]


def test_what_is_no_transfer_ends_in_the_failed_registry_and_does_no_harm(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    before = backlog(books, redis_client, 3)
    for each in (*GARBAGE, "1234567"):
        redis_client.hset(f"rq:job:{each}", mapping=template(redis_client, before[0]))
        redis_client.rpush(QUEUE, each)
    after = backlog(books, redis_client, 3, first_id=2_000)
    worker = make_worker()
    drain(worker)
    assert_posted_once(books, [*before, *after])
    assert members(redis_client, FAILED).keys() == {*GARBAGE, "1234567"}
    assert members(redis_client, STARTED) == {}
    result = job_of(redis_client, "abc").latest_result()
    assert result is not None
    assert result.exc_string == "there is no such transfer"
    # Requeueing it from rq-dashboard changes nothing.
    for each in ("abc", "007", "1234567"):
        requeue_job(each, connection=redis_client, serializer=JSONSerializer)
    drain(worker)
    assert members(redis_client, FAILED).keys() == {*GARBAGE, "1234567"}


def template(client: redis.Redis, job_id: int) -> Any:
    """A job's hash, to make another of."""
    return hash_of(client, job_id)


def test_what_is_not_even_text_does_no_harm(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, take_over: TakeOver
) -> None:
    ids = backlog(books, redis_client, 3)
    redis_client.hset(b"rq:job:\xff", mapping=template(redis_client, ids[0]))
    redis_client.lpush(QUEUE, b"\xff")
    drain(make_worker())
    assert_posted_once(books, ids)
    redis_client.delete(b"rq:job:\xff")
    expire_leases_of_any_name(redis_client)
    take_over(ids)


def expire_leases_of_any_name(client: redis.Redis) -> None:
    raw: Any = client
    for member in raw.zrange(STARTED, 0, -1):
        raw.zadd(STARTED, {member: 1.0})


def test_a_queue_entry_without_a_job_is_dropped(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    redis_client.rpush(QUEUE, 1_000, "abc")
    ids = backlog(books, redis_client, 2, first_id=2_000)
    drain(make_worker())
    assert_posted_once(books, ids)
    assert members(redis_client, FAILED) == {}


# --- replies that are lost


def lose_reply(proxy: TcpProxy, client: redis.Redis, script: Script) -> None:
    """Let a script run, and its caller never know."""
    client.script_load(script.script)
    marks = str(script.sha).encode()
    proxy.lose_reply_to(lambda data: marks in data)


STEPS: dict[str, int | None] = {
    # by step: how many attempts transfer 1004 had before it is refused; None: it is not
    "claim": None,
    "finish": None,
    "hand_back": 0,  # after a fault of the database's
    "postpone": 0,
    "bury": 2,
    "renew": 0,
}


@pytest.mark.parametrize("step", sorted(STEPS))
@pytest.mark.usefixtures("no_pause")
def test_a_step_whose_reply_is_lost_has_one_effect(
    *,
    books: Engine,
    redis_client: redis.Redis,
    redis_proxy: TcpProxy,
    make_worker: WorkerMaker,
    take_over: TakeOver,
    step: str,
) -> None:
    attempts = STEPS[step]
    ids = backlog(books, redis_client, 20)
    with books.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET attempts = :n WHERE id = :id"), {"n": attempts or 0, "id": ids[4]}
        )
    worker = make_worker(url=redis_proxy.url)
    lose_reply(redis_proxy, redis_client, getattr(worker._keys, f"_{step}"))
    if attempts is None:
        drain(worker)
    else:
        is_the_databases = step == "hand_back"
        fault = fault_on_all(books, "entries", CANNOT_SERIALIZE) if is_the_databases else fault_on(books, [ids[4]])
        with fault:
            found = worker.dequeue_job_and_maintain_ttl(None)
            assert found is not None
            worker.execute_job(*found)
    assert redis_proxy.cuts == 1
    expire_leases(redis_client)
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL"))
    take_over(ids)
    if step == "bury":
        assert row_of(books, ids[4]).status == "failed"
        assert members(redis_client, FAILED).keys() == {str(ids[4])}
        assert_posted_once(books, [each for each in ids if each != ids[4]])
    else:
        assert_posted_once(books, ids)
        assert members(redis_client, FAILED) == {}


# --- what stock RQ may do beside us


def test_a_clean_up_of_rqs_that_fails_an_expired_lease_loses_nothing(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, take_over: TakeOver
) -> None:
    """Anybody who merely counts the registry runs it; two at once enqueue or fail a job twice."""
    ids = backlog(books, redis_client, 5)
    late = make_worker()
    found = late.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    expire_leases(redis_client)
    registries = [StartedJobRegistry(queue=stock_queue(redis_client)) for _ in range(2)]
    together = [threading.Thread(target=registry.cleanup) for registry in registries]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert {status_of(redis_client, each) for each in ids} == {"failed"}
    take_over(ids)
    assert_posted_once(books, ids)
    late.execute_job(*found)  # and the one whose lease it was comes back
    assert_posted_once(books, ids)
    assert {status_of(redis_client, each) for each in ids} == {"finished"}
    assert members(redis_client, FAILED) == {}


def test_a_late_answer_takes_a_job_out_of_the_failed_registry(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    """RQ gave it up, but it was posted."""
    ids = backlog(books, redis_client, 3)
    late = make_worker()
    found = late.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    expire_leases(redis_client)
    StartedJobRegistry(queue=stock_queue(redis_client)).cleanup()
    assert len(members(redis_client, FAILED)) == 3
    late.execute_job(*found)
    assert_posted_once(books, ids)
    assert members(redis_client, FAILED) == {}
    assert {status_of(redis_client, each) for each in ids} == {"finished"}
    assert all(int(redis_client.ttl(name)) > 0 for name in names_in(redis_client) if name.startswith("rq:results"))


@pytest.mark.parametrize("registered", [False, True], ids=["dequeued", "registered"])
@pytest.mark.parametrize("others", [[], ["other"]], ids=["one queue", "several queues"])
def test_a_job_that_a_stock_worker_took_and_never_started_is_brought_back(
    *, books: Engine, redis_client: redis.Redis, take_over: TakeOver, registered: bool, others: list[str]
) -> None:
    """Killed before ``started``, it leaves a job that is called queued and stands in no list of jobs that wait.

    With several queues not even in an intermediate one, and stock RQ never finds it again.
    """
    ids = backlog(books, redis_client, 3)
    queues = [stock_queue(redis_client), *(Queue(each, connection=redis_client) for each in others)]
    stock = SimpleWorker(queues, connection=redis_client, serializer=JSONSerializer)
    found = stock.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    if registered:
        stock.prepare_execution(found[0])
        expire_leases(redis_client)
    assert queued(redis_client) == [str(each) for each in ids[1:]]
    assert status_of(redis_client, ids[0]) == "queued"
    assert any(name.endswith("intermediate") for name in names_in(redis_client)) == (not others)
    take_over(ids)
    assert_posted_once(books, ids)


def test_a_worker_that_rq_has_unregistered_shows_up_again(redis_client: redis.Redis, make_worker: WorkerMaker) -> None:
    worker = make_worker()
    unregister(worker)
    redis_client.delete(worker.key)
    worker._next_heartbeat = 0.0
    worker.heartbeat()
    assert [each.name for each in Worker.all(connection=redis_client)] == [worker.name]


def test_maintenance_of_rqs_is_never_run(make_worker: WorkerMaker) -> None:
    assert not make_worker().should_run_maintenance_tasks


def test_an_engine_that_cannot_connect_is_a_fault_of_nobodys(
    *,
    books: Engine,
    redis_client: redis.Redis,
    postgres_proxy: TcpProxy,
    make_worker: WorkerMaker,
    no_pause: None,
) -> None:
    """Also when the first thing that a claim needs is to reopen a dead letter."""
    del no_pause
    (letter,) = accept(books, 1)
    kill_off(books, [letter])
    RqKeys(redis_client).bury(letter, generation=1, error="told to")
    requeue_job(str(letter), connection=redis_client, serializer=JSONSerializer)
    others = backlog(books, redis_client, 3, first_id=2_000)
    with bounded_engine(postgres_proxy.url) as engine:
        worker = make_worker(engine=engine)
        postgres_proxy.refuse()
        found = worker.dequeue_job_and_maintain_ttl(None)
        assert found is not None
        worker.execute_job(*found)
        assert queued(redis_client) == [str(each) for each in (letter, *others)]
        postgres_proxy.refuse(refusing=False)
        drain(worker)
    assert row_of(books, letter).generation == 2
    assert_posted_once(books, [letter, *others])


def test_a_worker_that_is_told_to_stop_claims_nothing_more(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 2)
    worker = make_worker()
    worker._stop_requested = True
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(None)
    assert queued(redis_client) == [str(each) for each in ids]


def test_an_idle_worker_gives_up_after_the_idle_time_it_was_given(make_worker: WorkerMaker) -> None:
    assert make_worker().dequeue_job_and_maintain_ttl(1, 1) is None


def test_enqueued_while_it_waits_a_job_is_taken_at_once(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    worker = make_worker()
    (number,) = accept(books, 1)
    waits = worker._keys.wait_for_jobs
    rounds: list[int] = []

    def enqueue_first(timeout_s: int) -> None:
        rounds.append(timeout_s)
        enqueue(redis_client, [number])
        waits(timeout_s)

    worker._keys.wait_for_jobs = enqueue_first  # type: ignore[method-assign]
    found = worker.dequeue_job_and_maintain_ttl(15)
    assert found is not None
    assert (found[0].ids, len(rounds)) == ([str(number)], 1)


def test_a_worker_connects_once_and_sends_nothing_twice(redis_url: str) -> None:
    client = connect_worker_redis(redis_url)
    retry = client.connection_pool.connection_kwargs["retry"]
    assert retry.get_retries() == 0
    client.close()


def test_books_balance_with_two_workers_at_the_same_queue(
    books: Engine, redis_client: redis.Redis, start_worker: WorkerStarter
) -> None:
    ids = [
        *backlog(books, redis_client, 400),
        *backlog(books, redis_client, 400, first_id=2_000, source=2, destination=1),
        *backlog(books, redis_client, 400, first_id=3_000, source=3, destination=4),
    ]
    processes = [start_worker(lease_s=LONG_LEASE_S, BATCH_SIZE="50") for _ in range(2)]
    wait_until(lambda: are_final(books, ids))
    for process in processes:
        process.stop()
    assert statuses(books, ids) == {"posted"}
    assert balance_of(books, 1) == balance_of(books, 2) == OPENING_CENTS
    check_books(books)


def test_commands_reach_a_worker_also_after_a_redis_that_hung(
    redis_client: redis.Redis, redis_proxy: TcpProxy, start_worker: WorkerStarter
) -> None:
    process = start_worker(answer_s=1.5, REDIS_URL=redis_proxy.url)
    wait_until(lambda: is_idle(redis_client))
    name = only_worker(redis_client).name
    # Its connections break, and the next ones find nobody who answers.
    redis_proxy.hold()
    redis_proxy.break_all()
    wait_until(lambda: process.log.read_text().count('"TimeoutError"') > 3, process.log.read_text)
    redis_proxy.resume()

    def stops() -> bool:
        send_shutdown_command(redis_client, name)
        return not process.is_running

    wait_until(stops, process.log.read_text)
    assert process.wait() == 0, process.log.read_text()
