"""What rq-dashboard sees and moves, against what stock RQ does; the pages themselves: tests/api/dashboard."""

import json
from typing import Any

import pytest
import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.registry import FailedJobRegistry

from jobs.rq import dashboard
from jobs.rq.dashboard import ShownJob, ShownQueue, ShownSerializer, ShownWorker
from jobs.rq.keys import DEAD, FAILED, NewJob, RqKeys
from tests.jobs.backlog import hash_of, members, names_in, queued, stock_queue
from tests.jobs.rq.test_keys import comparable, refuse, run_stock, seconds_left


def test_a_requeued_job_is_the_one_that_stock_rq_would_have_requeued(redis_client: redis.Redis, keys: RqKeys) -> None:
    queue = stock_queue(redis_client)
    left = []
    for by_stock_rq in (True, False):
        redis_client.flushdb()
        queue.enqueue(refuse, "7", job_id="7", meta={"tp": "x"}, failure_ttl=-1)
        run_stock(queue)
        assert members(redis_client, FAILED).keys() == {"7"}
        if by_stock_rq:
            FailedJobRegistry(queue=queue).requeue("7")
        else:
            assert keys.requeue(["7"]) == 1
        assert (queued(redis_client), members(redis_client, FAILED)) == (["7"], {})
        # Stock RQ keeps an empty exception; who ran it last is another worker each time.
        fields = {k: v for k, v in comparable(hash_of(redis_client, 7)).items() if k not in {"exc_info", "worker_name"}}
        keys_left = {name for name in names_in(redis_client) if not name.startswith("rq:worker")}
        left.append((fields, keys_left, seconds_left(redis_client, "rq:job:7")))
    assert left[0] == left[1]


def test_what_is_not_failed_is_not_requeued(redis_client: redis.Redis, keys: RqKeys) -> None:
    keys.enqueue([NewJob(7, None)])
    redis_client.zadd(FAILED, {"no-job": 1})
    assert keys.requeue(["7", "8", "no-job"]) == 0
    assert (queued(redis_client), members(redis_client, FAILED)) == (["7"], {})
    for job_id in ("7", "8", "no id"):
        with pytest.raises(NoSuchJobError):
            dashboard.requeue(redis_client, job_id, by="tests")


def test_a_requeued_dead_letter_stays_marked_for_the_claim(redis_client: redis.Redis, keys: RqKeys) -> None:
    keys.bury(7, generation=3, error="told to")
    dashboard.requeue(redis_client, "7", by="tests")
    assert hash_of(redis_client, 7)[DEAD] == b"3"
    claim = keys.claim(worker_key="rq:worker:w", worker_name="w", lease="l", limit=9, lease_s=60)
    assert claim.dead == {"7": 3}


def test_more_dead_letters_than_one_step_takes_are_requeued(
    redis_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "CHUNK", 2)
    for number in range(1, 6):
        keys.bury(number, generation=1, error="told to")
    redis_client.zadd(FAILED, {"no-job": 1})
    assert dashboard.requeue_all(redis_client, "transfers", by="tests") == 5
    assert sorted(queued(redis_client)) == ["1", "2", "3", "4", "5"]
    assert dashboard.requeue_all(redis_client, "transfers", by="tests") == 0


def test_a_pickled_job_is_requeued_as_it_is(redis_client: redis.Redis) -> None:
    """RQ's own way would have to read it."""
    queue = Queue("pickles", connection=redis_client)
    queue.enqueue(refuse, "7", job_id="7", meta={"a": 1})
    before = hash_of(redis_client, 7)
    redis_client.delete(queue.key)
    redis_client.zadd("rq:failed:pickles", {"7": 1})
    dashboard.requeue(redis_client, "7", by="tests")
    after = hash_of(redis_client, 7)
    assert (after["data"], after["meta"]) == (before["data"], before["meta"])
    assert redis_client.lrange(queue.key, 0, -1) == [b"7"]


def test_pickle_is_never_loaded(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue("pickles", connection=redis_client)
    queue.enqueue(refuse, "7", job_id="7", meta={"a": 1})
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    job = ShownJob.fetch("7", connection=redis_client)
    assert "not JSON" in str(job.get_meta())
    assert job.get_call_string() == job.description
    assert {each.serializer for each in ShownQueue.all(redis_client)} == {ShownSerializer}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"NaN", b"[" * 400 + b"]" * 400, b"[" * 5_000])
def test_what_is_no_json_reads_as_words(raw: bytes) -> None:
    assert isinstance(ShownSerializer.loads(raw), str)


def test_json_reads_as_it_is() -> None:
    value: dict[str, Any] = {"a": [1, 2.5, None, "é"]}
    assert ShownSerializer.loads(json.dumps(value).encode()) == value


def test_a_worker_that_ends_meanwhile_is_not_shown(redis_client: redis.Redis) -> None:
    redis_client.sadd("rq:workers", "rq:worker:gone", "rq:worker:alive", "nonsense", b"rq:worker:\xff")
    redis_client.hset("rq:worker:alive", mapping={"state": "idle", "queues": "transfers", "current_job": "gone"})
    workers = ShownWorker.all(redis_client)
    assert [(worker.name, worker.get_state(), worker.get_current_job()) for worker in workers] == [
        ("alive", "idle", None)
    ]


def test_a_queue_whose_name_is_no_text_is_not_shown(redis_client: redis.Redis) -> None:
    redis_client.sadd("rq:queues", "nonsense", b"rq:queue:\xff", "rq:queue:other")
    assert [queue.name for queue in ShownQueue.all(redis_client)] == ["other", "transfers"]
