"""Our scripts leave behind what stock RQ would, and move a job only for whoever holds it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from rq import Queue, Retry, SimpleWorker
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from jobs.killers import ALONE_AFTER_LOST, MAX_LOST
from jobs.rq.keys import (
    FAILED,
    FINISHED,
    JOB_DESCRIPTION,
    JOB_FUNCTION,
    JOB_TIMEOUT_S,
    QUEUE,
    RESULT_TTL_S,
    SCHEDULED,
    STARTED,
    Claim,
    NewJob,
    RqKeys,
)
from tests.jobs.backlog import (
    expire_leases,
    hash_of,
    job_of,
    members,
    names_in,
    queued,
    results_of,
    status_of,
    stock_queue,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# Stock RQ writes these although they are empty; they would only cost memory.
EMPTY_FIELDS = {"success_callback_name", "failure_callback_name", "stopped_callback_name", "group_id"}
OWN_FIELDS = {"lease", "dead", "lost"}
TIMES = {"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"}
WORKER = "rq:worker:tests"
ABOUT_WORKERS = ("rq:worker", "rq:clean")


def refuse(_transfer_id: str) -> None:
    """What a stock worker runs in place of a job of ours."""
    raise RuntimeError("told to")


def accept(_transfer_id: str) -> str:
    """The same, with success."""
    return "posted"


def enqueue(keys: RqKeys, *ids: int, trace: str | None = None, lost: int = 0, again: bool = False) -> int:
    return keys.enqueue([NewJob(each, trace, lost) for each in ids], lost=again)


def claim(keys: RqKeys, *, lease: str = "lease", limit: int = 100, lease_s: float = 60.0) -> Claim:
    return keys.claim(worker_key=WORKER, worker_name="tests", lease=lease, limit=limit, lease_s=lease_s)


def seconds_left(client: redis.Redis, key: str) -> int:
    """A key's time to live; -1: without end, -2: there is no such key."""
    return int(client.ttl(key))


def enqueue_stock(queue: Queue, job_id: int, function: Any = JOB_FUNCTION, **options: Any) -> Job:
    return queue.enqueue_call(
        function,
        args=(str(job_id),),
        timeout=JOB_TIMEOUT_S,
        result_ttl=RESULT_TTL_S,
        failure_ttl=-1,
        description=JOB_DESCRIPTION,
        job_id=str(job_id),
        **options,
    )


def run_stock(queue: Queue) -> SimpleWorker:
    """Let RQ's own worker run what waits."""
    worker = SimpleWorker([queue], connection=queue.connection, serializer=JSONSerializer)
    worker.work(burst=True, logging_level="CRITICAL")
    return worker


def comparable(fields: dict[str, bytes]) -> dict[str, object]:
    """A job's hash without what differs from run to run, and without what is ours or empty."""
    kept: dict[str, object] = {
        name: value for name, value in fields.items() if name not in TIMES | OWN_FIELDS | EMPTY_FIELDS
    }
    return kept | {name: bool(fields.get(name)) for name in TIMES}


def test_an_enqueued_job_is_the_one_that_stock_rq_would_have_enqueued(redis_client: redis.Redis, keys: RqKeys) -> None:
    stock = enqueue_stock(stock_queue(redis_client), 7, meta={"tp": TRACE}, unique=True)
    theirs, theirs_data = hash_of(redis_client, 7), (stock.func_name, list(stock.args), stock.kwargs, stock.instance)
    their_keys = {key: redis_client.type(key) for key in names_in(redis_client)}
    their_queues = redis_client.smembers("rq:queues")
    redis_client.flushdb()

    assert enqueue(keys, 7, trace=TRACE) == 1
    ours, job = hash_of(redis_client, 7), job_of(redis_client, 7)
    assert {key: redis_client.type(key) for key in names_in(redis_client)} == their_keys
    assert redis_client.smembers("rq:queues") == their_queues
    assert ours.keys() | EMPTY_FIELDS == theirs.keys()
    assert {name: theirs[name] for name in EMPTY_FIELDS} == dict.fromkeys(EMPTY_FIELDS, b"")
    # What is serialized may be spelled with other blanks, so it is compared as it is read.
    spelled = {"data", "meta"}
    assert {k: v for k, v in comparable(ours).items() if k not in spelled} == {
        k: v for k, v in comparable(theirs).items() if k not in spelled
    }
    assert (job.func_name, job.args, job.kwargs, job.instance) == theirs_data
    assert job.meta == {"tp": TRACE}
    assert job.get_status() is JobStatus.QUEUED
    assert job.enqueued_at is not None
    assert abs(datetime.now(UTC) - job.enqueued_at) < timedelta(minutes=1)
    assert queued(redis_client) == ["7"]


def test_stock_rq_finds_the_queue_and_its_job(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    assert [queue.name for queue in Queue.all(connection=redis_client)] == ["transfers"]
    assert [job.id for job in stock_queue(redis_client).jobs] == ["7"]


def test_a_job_without_a_trace_has_no_meta(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    assert job_of(redis_client, 7).meta == {}


def test_a_job_that_has_a_hash_is_not_enqueued_twice(redis_client: redis.Redis, keys: RqKeys) -> None:
    assert enqueue(keys, 7, 8) == 2
    assert enqueue(keys, 7, 9) == 1
    with pytest.raises(DuplicateJobError):
        enqueue_stock(stock_queue(redis_client), 7, unique=True)
    assert queued(redis_client) == ["7", "8", "9"]


def test_a_claim_takes_from_the_front_and_marks_as_stock_rq_does(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 3, 1, 2)
    taken = claim(keys, limit=2)
    assert (taken.ids, taken.dead) == (["3", "1"], {})
    assert queued(redis_client) == ["2"]
    job = job_of(redis_client, 3)
    assert (job.get_status(), job.worker_name, job.ended_at) == (JobStatus.STARTED, "tests", None)
    assert job.started_at is not None
    registry = StartedJobRegistry(queue=stock_queue(redis_client))
    assert sorted(registry.get_job_and_execution_ids()) == [("1", "lease"), ("3", "lease")]
    assert (redis_client.hget(WORKER, "state"), redis_client.hget(WORKER, "current_job")) == (b"busy", b"3")


def test_an_empty_queue_gives_an_empty_claim(redis_client: redis.Redis, keys: RqKeys) -> None:
    assert claim(keys).ids == []
    assert names_in(redis_client) == set()


def test_an_id_that_stands_twice_in_the_queue_is_claimed_once(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, 8)
    redis_client.rpush(QUEUE, 7, 7)
    assert claim(keys, lease="first").ids == ["7", "8"]
    redis_client.rpush(QUEUE, 7)
    assert claim(keys, lease="second").ids == []
    assert members(redis_client, STARTED).keys() == {"7:first", "8:first"}


@pytest.mark.parametrize("status", ["started", "finished", "failed", "scheduled", "stopped", None])
def test_only_what_is_queued_is_claimed(redis_client: redis.Redis, keys: RqKeys, status: str | None) -> None:
    """An entry of the list whose hash says otherwise is a stale duplicate."""
    if status is not None:
        enqueue(keys, 7)
        redis_client.hset("rq:job:7", "status", status)
    else:
        redis_client.rpush(QUEUE, 7)
    assert claim(keys).ids == []
    assert queued(redis_client) == []


def redis_now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def test_leases_are_in_time_of_redis_whatever_the_clock_here_says(
    redis_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rq.keys._now", lambda: "2001-01-01T00:00:00.000000Z")
    monkeypatch.setattr(time, "time", lambda: 978_307_200.0)
    enqueue(keys, 7)
    before = redis_now(redis_client)
    claim(keys, lease_s=60)
    after = redis_now(redis_client)
    assert before + 60 <= members(redis_client, STARTED)["7:lease"] <= after + 60 + 0.001
    keys.renew("lease", ["7"], lease_s=600)
    assert members(redis_client, STARTED)["7:lease"] >= before + 600
    assert keys.reap(limit=10).moved == {}


def test_a_lease_is_renewed_for_those_jobs_alone_that_it_still_holds(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, 8)
    claim(keys)
    keys.finish("lease", [8])
    assert keys.renew("lease", ["7", "8"], lease_s=60) == 1
    assert keys.renew("another", ["7"], lease_s=60) == 0
    assert members(redis_client, STARTED).keys() == {"7:lease"}


def test_a_finished_job_reads_like_one_that_stock_rq_finished(redis_client: redis.Redis, keys: RqKeys) -> None:
    queue = stock_queue(redis_client)
    enqueue_stock(queue, 7, accept)
    run_stock(queue)
    theirs, theirs_registered = hash_of(redis_client, 7), members(redis_client, FINISHED)
    theirs_left = seconds_left(redis_client, "rq:job:7")
    redis_client.flushdb()

    enqueue(keys, 7)
    claim(keys)
    keys.finish("lease", [7])
    ours = hash_of(redis_client, 7)
    # PostgreSQL has the result; a stream for it would be most of the job's memory.
    not_ours = {"data", "worker_name"}
    assert {k: v for k, v in comparable(ours).items() if k not in not_ours} == {
        k: v for k, v in comparable(theirs).items() if k not in not_ours
    }
    assert members(redis_client, FINISHED).keys() == theirs_registered.keys() == {"7"}
    assert abs(members(redis_client, FINISHED)["7"] - theirs_registered["7"]) < 60
    assert 0 < seconds_left(redis_client, "rq:job:7") <= RESULT_TTL_S
    assert 0 < theirs_left <= RESULT_TTL_S
    job = job_of(redis_client, 7)
    assert (job.get_status(), job.is_finished, job.latest_result()) == (JobStatus.FINISHED, True, None)
    assert job.ended_at is not None
    assert (members(redis_client, STARTED), queued(redis_client)) == ({}, [])
    assert FinishedJobRegistry(queue=queue).get_job_ids() == ["7"]


def test_a_finished_job_costs_at_most_a_kilobyte(redis_client: redis.Redis, keys: RqKeys) -> None:
    number = 2**62 + 12_345
    enqueue(keys, number, trace=TRACE)
    claim(keys)
    keys.finish("lease", [number])
    assert number in map(int, members(redis_client, FINISHED))
    sizes = [redis_client.memory_usage(key, samples=0) for key in names_in(redis_client) - {WORKER, "rq:queues"}]
    assert 0 < sum(size or 0 for size in sizes) <= 1024


def test_nothing_of_a_job_outlives_its_finish(redis_client: redis.Redis, keys: RqKeys) -> None:
    """Whatever had happened to it before: a dead letter that RQ requeued still has the result of its failure."""
    enqueue(keys, 7)
    claim(keys)
    keys.bury(7, generation=1, error="told to", lease="lease")
    FailedJobRegistry(queue=stock_queue(redis_client)).requeue("7")
    claim(keys, lease="second")
    keys.finish("second", [7])
    of_the_job = [key for key in names_in(redis_client) if key.endswith(":7")]
    assert len(of_the_job) >= 1
    assert all(0 < seconds_left(redis_client, key) <= RESULT_TTL_S for key in of_the_job)


def test_finished_jobs_leave_their_registry_when_their_time_is_over(redis_client: redis.Redis, keys: RqKeys) -> None:
    redis_client.zadd(FINISHED, {"1": 1.0})
    enqueue(keys, 7)
    claim(keys)
    keys.finish("lease", [7])
    assert members(redis_client, FINISHED).keys() == {"7"}


def finished_from(state: str, keys: RqKeys, client: redis.Redis) -> None:
    """Bring job 7 into a state in which its first worker, under ``lease``, no longer holds it."""
    enqueue(keys, 7)
    claim(keys)
    match state:
        case "queued":
            keys.hand_back("lease", [7])
        case "started by another":
            keys.hand_back("lease", [7])
            claim(keys, lease="another")
        case "scheduled":
            keys.postpone("lease", {7: datetime.now(UTC)})
        case "failed":
            keys.bury(7, generation=1, error="told to", lease="lease")
        case "forgotten":
            client.delete("rq:job:7")


@pytest.mark.parametrize("state", ["queued", "started by another", "scheduled", "failed", "started"])
def test_what_is_true_is_booked_wherever_the_job_is(redis_client: redis.Redis, keys: RqKeys, state: str) -> None:
    """Posted is posted: that needs no lease."""
    finished_from(state, keys, redis_client)
    keys.finish("lease", [7])
    assert status_of(redis_client, 7) == "finished"
    assert members(redis_client, FINISHED).keys() == {"7"}
    assert members(redis_client, STARTED) == members(redis_client, FAILED) == members(redis_client, SCHEDULED) == {}
    assert "dead" not in hash_of(redis_client, 7)
    # Where it still stands in the queue, nobody takes it any more.
    assert claim(keys, lease="third").ids == []


def test_a_job_that_redis_has_forgotten_is_not_made_up_again_when_finished(
    redis_client: redis.Redis, keys: RqKeys
) -> None:
    finished_from("forgotten", keys, redis_client)
    keys.finish("lease", [7])
    assert (members(redis_client, STARTED), members(redis_client, FINISHED)) == ({}, {})
    assert redis_client.exists("rq:job:7") == 0


def test_a_job_handed_back_is_as_it_was_enqueued_and_first_in_line(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 1, 2, 3, 4)
    before = hash_of(redis_client, 2)
    claim(keys, limit=3)
    assert keys.hand_back("lease", [1, 2, 3]) == 3
    assert queued(redis_client) == ["1", "2", "3", "4"]
    assert members(redis_client, STARTED) == {}
    after = hash_of(redis_client, 2)
    assert {k: v for k, v in after.items() if k not in TIMES | {"worker_name"}} == {
        k: v for k, v in before.items() if k not in TIMES | {"worker_name"}
    }


def fenced_steps() -> dict[str, Callable[[RqKeys, str], object]]:
    return {
        "hand_back": lambda keys, lease: keys.hand_back(lease, [7]),
        "postpone": lambda keys, lease: keys.postpone(lease, {7: datetime.now(UTC)}),
        "bury": lambda keys, lease: keys.bury(7, generation=1, error="told to", lease=lease),
    }


@pytest.mark.parametrize("step", sorted(fenced_steps()))
@pytest.mark.parametrize("state", ["queued", "started by another", "scheduled", "failed", "forgotten"])
def test_whoever_has_lost_the_lease_moves_nothing(
    redis_client: redis.Redis, keys: RqKeys, step: str, state: str
) -> None:
    finished_from(state, keys, redis_client)
    redis_client.zrem(STARTED, "7:lease")

    def snapshot() -> list[object]:
        lists = [members(redis_client, each) for each in (STARTED, FAILED, SCHEDULED, FINISHED)]
        return [*lists, queued(redis_client), hash_of(redis_client, 7), redis_client.xlen("rq:results:7")]

    before = snapshot()
    assert not fenced_steps()[step](keys, "lease")
    assert snapshot() == before


@pytest.mark.parametrize("step", sorted(fenced_steps()))
def test_whoever_has_the_lease_moves_the_job_once(keys: RqKeys, step: str) -> None:
    enqueue(keys, 7)
    claim(keys)
    move = fenced_steps()[step]
    assert move(keys, "lease") == 1
    assert move(keys, "lease") == 0


def test_a_failed_job_reads_like_one_that_stock_rq_failed(redis_client: redis.Redis, keys: RqKeys) -> None:
    queue = stock_queue(redis_client)
    enqueue_stock(queue, 7, refuse)
    worker = run_stock(queue)
    theirs, their_stream = hash_of(redis_client, 7), results_of(redis_client, 7)
    their_keys = {key for key in names_in(redis_client) if not key.startswith(ABOUT_WORKERS)}
    their_score = members(redis_client, FAILED)["7"]
    redis_client.flushdb()

    enqueue(keys, 7)
    claim(keys)
    assert keys.bury(7, generation=3, error="its attempts ran out", lease="lease", worker_name=worker.name)
    ours, our_stream = hash_of(redis_client, 7), results_of(redis_client, 7)
    not_ours = {"data", "worker_name"}
    assert {k: v for k, v in comparable(ours).items() if k not in not_ours} == {
        k: v for k, v in comparable(theirs).items() if k not in not_ours
    }
    assert {key for key in names_in(redis_client) if not key.startswith(ABOUT_WORKERS)} == their_keys
    # There was no execution of RQ's, hence nothing about one.
    (our_fields,), (their_fields,) = our_stream, their_stream
    executions = {"execution_id", "execution_started_at", "execution_ended_at"}
    assert our_fields.keys() == their_fields.keys() - executions
    assert our_fields["type"] == their_fields["type"]
    assert our_fields["worker_name"] == their_fields["worker_name"]
    # Neither is ever cleaned up: RQ's clean-up takes what lies between 0 and now.
    assert their_score == -1
    assert members(redis_client, FAILED) == {"7": float("inf")}
    assert {seconds_left(redis_client, key) for key in ("rq:job:7", "rq:results:7", FAILED)} == {-1}
    assert (members(redis_client, STARTED), queued(redis_client)) == ({}, [])


def test_what_is_said_of_a_dead_letter_can_be_read_in_rq(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    claim(keys)
    keys.bury(7, generation=3, error="its attempts ran out", lease="lease", worker_name="tests")
    job = job_of(redis_client, 7)
    result = job.latest_result()
    assert result is not None
    assert (result.type, result.exc_string, result.worker_name) == (
        Result.Type.FAILED,
        "its attempts ran out",
        "tests",
    )
    assert job.is_failed
    assert hash_of(redis_client, 7)["dead"] == b"3"
    registry = FailedJobRegistry(queue=stock_queue(redis_client))
    assert (registry.get_job_ids(), registry.count) == (["7"], 1)  # both of them clean up first


def test_a_dead_letter_that_redis_never_knew_can_be_booked(redis_client: redis.Redis, keys: RqKeys) -> None:
    """PostgreSQL has it as failed, and that is why no lease is asked for."""
    assert keys.bury(7, generation=1, error="its worker died each time")
    job = job_of(redis_client, 7)
    assert (job.func_name, job.args, job.is_failed) == (JOB_FUNCTION, ["7"], True)
    assert job.failure_ttl == -1
    FailedJobRegistry(queue=stock_queue(redis_client)).requeue("7")
    taken = claim(keys)
    assert (taken.ids, taken.dead) == (["7"], {"7": 1})


def test_booking_a_dead_letter_takes_it_from_whoever_holds_it_and_from_the_queue(
    redis_client: redis.Redis, keys: RqKeys
) -> None:
    enqueue(keys, 7, 8)
    claim(keys, limit=1)
    redis_client.rpush(QUEUE, 7)
    assert keys.bury(7, generation=1, error="told to")
    assert members(redis_client, STARTED) == {}
    assert queued(redis_client) == ["8"]
    assert keys.hand_back("lease", [7]) == 0


def test_a_retried_job_reads_like_one_that_stock_rq_scheduled(redis_client: redis.Redis, keys: RqKeys) -> None:
    queue = stock_queue(redis_client)
    enqueue_stock(queue, 7, refuse, retry=Retry(max=2, interval=100))
    run_stock(queue)
    theirs, their_score = hash_of(redis_client, 7), members(redis_client, SCHEDULED)["7"]
    assert redis_client.exists("rq:results:7") == 0
    redis_client.flushdb()

    due = datetime.now(UTC) + timedelta(seconds=100.5)
    enqueue(keys, 7)
    claim(keys)
    assert keys.postpone("lease", {7: due}) == 1
    ours = hash_of(redis_client, 7)
    # How often is for PostgreSQL to know.
    not_ours = {"data", "worker_name", "number_of_retries", "retries_left", "retry_intervals"}
    assert {k: v for k, v in comparable(ours).items() if k not in not_ours} == {
        k: v for k, v in comparable(theirs).items() if k not in not_ours
    }
    assert members(redis_client, SCHEDULED) == {"7": due.timestamp()}
    assert abs(their_score - due.timestamp()) < 60
    assert (members(redis_client, STARTED), redis_client.exists("rq:results:7")) == ({}, 0)
    registry = ScheduledJobRegistry(queue=queue)  # type: ignore[no-untyped-call]
    assert registry.get_job_ids() == ["7"]
    assert status_of(redis_client, 7) == "scheduled"


def test_an_expired_lease_goes_back_to_the_front_and_is_counted(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, 8)
    claim(keys, limit=1, lease_s=0.0)
    reaped = keys.reap(limit=10)
    assert (reaped.moved, reaped.killers) == ({"7": 1}, [])
    assert queued(redis_client) == ["7", "8"]
    assert (status_of(redis_client, 7), members(redis_client, STARTED)) == ("queued", {})
    assert claim(keys, lease="second", limit=1).ids == ["7"]
    assert keys.hand_back("lease", [7]) == 0


def test_a_lease_that_holds_is_left_alone(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    claim(keys, lease_s=60.0)
    assert keys.reap(limit=10).moved == {}
    assert members(redis_client, STARTED).keys() == {"7:lease"}


@pytest.mark.parametrize("state", ["queued", "started by another", "scheduled", "failed", "finished", "forgotten"])
def test_an_expired_lease_on_what_somebody_else_has_moved_since_is_only_removed(
    redis_client: redis.Redis, keys: RqKeys, state: str
) -> None:
    finished_from(state, keys, redis_client)
    if state == "finished":
        keys.finish("lease", [7])
    fields, list_of_ids = hash_of(redis_client, 7), queued(redis_client)
    redis_client.zadd(STARTED, {"7:lease": 1.0})
    assert keys.reap(limit=10).moved == {}
    assert "7:lease" not in members(redis_client, STARTED)
    assert (hash_of(redis_client, 7), queued(redis_client)) == (fields, list_of_ids)


def test_a_job_whose_stock_worker_died_is_taken_back_too(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    worker = SimpleWorker([stock_queue(redis_client)], connection=redis_client, serializer=JSONSerializer)
    found = worker.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    execution = worker.prepare_execution(found[0])
    worker.prepare_job_execution(found[0])
    redis_client.zadd(STARTED, {execution.composite_key: 1.0})
    assert keys.reap(limit=10).moved == {"7": 1}
    assert queued(redis_client) == ["7"]


def test_a_member_of_the_started_registry_that_names_no_execution_does_no_harm(
    redis_client: redis.Redis, keys: RqKeys
) -> None:
    """RQ before version 2 wrote bare job ids."""
    redis_client.zadd(STARTED, {"bare": 1.0})
    enqueue(keys, 7)
    claim(keys, lease_s=0.0)
    assert keys.reap(limit=10).moved == {"7": 1}
    assert members(redis_client, STARTED) == {}


def lose(keys: RqKeys, client: redis.Redis, times: int) -> None:
    """Let the leases of all that waits run out so many times."""
    for number in range(times):
        while claim(keys, lease=f"lost-{number}").ids:
            pass
        expire_leases(client)
        keys.reap(limit=100)


def test_from_the_second_lost_lease_on_a_job_runs_alone(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, lost=ALONE_AFTER_LOST - 1)
    enqueue(keys, 8)
    assert claim(keys, lease="in company").ids == ["7", "8"]
    assert keys.hand_back("in company", [7, 8]) == 2
    redis_client.hset("rq:job:7", "lost", ALONE_AFTER_LOST)
    assert claim(keys, lease="a").ids == ["7"]
    assert claim(keys, lease="b").ids == ["8"]


def test_a_job_that_runs_alone_does_not_get_past_those_before_it(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 5, 6)
    enqueue(keys, 7, lost=ALONE_AFTER_LOST)
    enqueue(keys, 8, 9)
    taken = [claim(keys, lease=f"lease-{number}").ids for number in range(4)]
    assert taken == [["5", "6"], ["7"], ["8", "9"], []]
    assert queued(redis_client) == []


def test_a_job_that_loses_every_lease_is_named_and_stays_where_it_is(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    lose(keys, redis_client, MAX_LOST - 1)
    assert queued(redis_client) == ["7"]
    claim(keys, lease="last", lease_s=0.0)
    reaped = keys.reap(limit=10)
    assert (reaped.moved, reaped.killers) == ({}, ["7"])
    assert queued(redis_client) == []
    assert keys.reap(limit=10).killers == []  # not in every pass
    expire_leases(redis_client)
    assert keys.reap(limit=10).killers == ["7"]  # but again, while nothing is done about it


def test_a_job_that_was_taken_for_a_killer_goes_back_to_the_front(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, 8, lost=MAX_LOST - 1)
    claim(keys, limit=1, lease_s=0.0)
    assert keys.reap(limit=10).killers == ["7"]
    assert keys.spare({7: 1, 8: 1, 9: 1}) == 1
    assert queued(redis_client) == ["7", "8"]
    assert (status_of(redis_client, 7), members(redis_client, STARTED)) == ("queued", {})
    assert [int(hash_of(redis_client, each)["lost"]) for each in (7, 8)] == [1, MAX_LOST - 1]
    assert keys.spare({7: 0}) == 0  # once
    assert keys.hand_back("lease", [7]) == 0  # and no more by whoever had it


def test_a_batch_of_5000_goes_through_every_step(redis_client: redis.Redis, keys: RqKeys) -> None:
    """Lua's unpack takes no more than some thousands of values at once."""
    ids = list(range(1, 5_001))
    names = list(map(str, ids))
    assert enqueue(keys, *ids) == 5_000
    assert enqueue(keys, *ids) == 0
    assert keys.queued_ids() == set(ids)
    assert claim(keys, lease="a", limit=5_000).ids == names
    assert keys.renew("a", names, lease_s=60) == 5_000
    assert keys.hand_back("a", ids) == 5_000
    assert queued(redis_client) == names
    claim(keys, lease="b", limit=5_000, lease_s=0.0)
    assert len(keys.reap(limit=5_000).moved) == 5_000
    assert sorted(keys.examine(ids)[1]) == ids
    claim(keys, lease="c", limit=5_000)
    assert keys.postpone("c", dict.fromkeys(ids, datetime.now(UTC))) == 5_000
    assert keys.examine(ids) == (ids, [])
    assert enqueue(keys, *ids, again=True) == 5_000
    claim(keys, lease="d", limit=5_000)
    keys.finish("d", ids)
    assert (len(members(redis_client, FINISHED)), members(redis_client, STARTED)) == (5_000, {})
    jobs = {f"rq:job:{each}" for each in names}
    left = names_in(redis_client)
    assert jobs <= left
    # All that is RQ's; what else there is may be of a thread that an earlier test has left.
    assert {each for each in left - jobs if each.startswith("rq:")} == {"rq:queues", FINISHED, WORKER}


def test_examine_tells_who_has_a_job(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 1, 2, 3, 4, 5)
    claim(keys, limit=4)
    keys.hand_back("lease", [1])
    keys.finish("lease", [2])
    keys.postpone("lease", {3: datetime.now(UTC)})
    gone, waiting = keys.examine([1, 2, 3, 4, 5, 6])
    assert (sorted(gone), sorted(waiting)) == ([2, 3, 6], [1, 5])
    redis_client.zrem(STARTED, "4:lease")
    assert keys.examine([4]) == ([4], [])


def test_examine_knows_a_job_that_a_stock_worker_runs(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7)
    worker = SimpleWorker([stock_queue(redis_client)], connection=redis_client, serializer=JSONSerializer)
    found = worker.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    worker.prepare_execution(found[0])
    worker.prepare_job_execution(found[0])
    assert keys.examine([7]) == ([], [])
    assert enqueue(keys, 7, again=True) == 0
    redis_client.delete("rq:executions:7")
    assert keys.examine([7]) == ([7], [])


def test_enqueueing_again_leaves_the_living_alone_and_begins_anew_with_the_rest(
    redis_client: redis.Redis, keys: RqKeys
) -> None:
    enqueue(keys, 1, 2, 3, 4, 5, 6)
    claim(keys, limit=5)
    keys.hand_back("lease", [1])
    keys.finish("lease", [2])
    keys.postpone("lease", {3: datetime.now(UTC)})
    keys.bury(4, generation=1, error="told to", lease="lease")
    redis_client.lrem(QUEUE, 0, "6")  # says that it is queued, and is in no list
    assert enqueue(keys, 1, 2, 3, 4, 5, 6, 7, again=True, trace=TRACE) == 5
    assert queued(redis_client) == ["1", "2", "3", "4", "6", "7"]
    assert members(redis_client, STARTED).keys() == {"5:lease"}
    assert members(redis_client, SCHEDULED) == members(redis_client, FAILED) == members(redis_client, FINISHED) == {}
    assert redis_client.exists("rq:results:4") == 0
    fresh = hash_of(redis_client, 4)
    assert "dead" not in fresh
    assert (fresh["status"], fresh["ended_at"]) == (b"queued", b"")
    assert seconds_left(redis_client, "rq:job:2") == -1
    assert job_of(redis_client, 3).meta == {"tp": TRACE}


def test_lost_leases_that_postgresql_remembers_come_along(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 7, lost=MAX_LOST - 1)
    claim(keys, lease_s=0.0)
    assert keys.reap(limit=10).killers == ["7"]
    assert int(hash_of(redis_client, 7)["lost"]) == MAX_LOST


def test_waiting_for_a_job_takes_none(redis_client: redis.Redis, keys: RqKeys) -> None:
    enqueue(keys, 1, 2)
    keys.wait_for_jobs(1)
    assert queued(redis_client) == ["1", "2"]
    assert keys.queue_length() == 2
