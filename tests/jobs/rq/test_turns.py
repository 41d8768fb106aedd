"""Workers that pace themselves: what comes in a flow gathers for some milliseconds; what is alone never waits."""

import pytest
import redis
from rq.exceptions import StopRequested
from sqlalchemy import Engine

from jobs.rq.keys import (
    QUEUE,
    REST_MS,
    REST_MS_PER_JOB,
    STANDBY_MS,
    STARTED,
    TURN,
    TURN_MS,
    Claim,
    NewJob,
    RqKeys,
)
from jobs.rq.worker import BatchWorker
from tests.jobs.backlog import backlog, members, queued
from tests.jobs.conftest import WorkerMaker

# Longer than any test here takes, so that no turn ends by itself.
LONG_MS = 60_000


def enqueue(keys: RqKeys, *ids: int) -> None:
    keys.enqueue([NewJob(each, None) for each in ids])


def claim(keys: RqKeys, worker: str = "one", *, limit: int = 10, in_turn: bool = True) -> Claim:
    name = f"rq:worker:{worker}"
    return keys.claim(worker_key=name, worker_name=worker, lease=worker, limit=limit, lease_s=60.0, in_turn=in_turn)


def rest(client: redis.Redis, *, jobs: int, worker: str = "one") -> None:
    with client.pipeline() as pipeline:
        RqKeys.rest(pipeline, worker, jobs=jobs)
        pipeline.execute()


# Who has his turn


def test_a_job_that_is_alone_is_taken_at_once_and_gives_nobody_a_turn(keys: RqKeys, redis_client: redis.Redis) -> None:
    for worker in ("one", "another", "one"):
        enqueue(keys, 7)
        assert claim(keys, worker).ids == ["7"]
        rest(redis_client, jobs=1)
        assert not redis_client.exists(TURN)
        redis_client.flushall()


def test_who_takes_several_has_his_turn_while_they_are_posted(keys: RqKeys, redis_client: redis.Redis) -> None:
    enqueue(keys, 7, 8)
    assert claim(keys).ids == ["7", "8"]
    # A slow machine may have let it end meanwhile.
    assert redis_client.get(TURN) in {b"one", None}
    assert redis_client.pttl(TURN) <= TURN_MS


def test_who_takes_all_that_he_may_needs_no_company(keys: RqKeys, redis_client: redis.Redis) -> None:
    enqueue(keys, *range(1, 6))
    assert len(claim(keys, limit=5).ids) == 5
    assert not redis_client.exists(TURN)


@pytest.mark.parametrize(
    ("jobs", "rest_ms"), [(2, 2 * REST_MS_PER_JOB), (4, 4 * REST_MS_PER_JOB), (5, REST_MS), (100, REST_MS)]
)
def test_the_larger_the_batch_the_longer_the_rest_up_to_a_bound(
    redis_client: redis.Redis, jobs: int, rest_ms: int
) -> None:
    sent: list[tuple[object, ...]] = []
    with redis_client.pipeline() as pipeline:
        pipeline.execute_command = lambda *words, **_: sent.append(words)  # type: ignore[method-assign]
        RqKeys.rest(pipeline, "one", jobs=jobs)
    assert sent == [("SET", TURN, "one", "PX", rest_ms)]


# Who waits


def test_while_somebody_has_his_turn_nothing_is_taken_and_nothing_is_held(
    keys: RqKeys, redis_client: redis.Redis
) -> None:
    redis_client.set(TURN, "one", px=LONG_MS)
    enqueue(keys, 7, 8)
    claimed = claim(keys)
    assert (claimed.ids, claimed.dead) == ([], {})
    assert 0 < claimed.wait_s <= LONG_MS / 1000
    assert (queued(redis_client), members(redis_client, STARTED)) == (["7", "8"], {})


def test_the_others_wait_a_little_longer(keys: RqKeys, redis_client: redis.Redis) -> None:
    redis_client.set(TURN, "one", px=LONG_MS)
    own, others = claim(keys, "one").wait_s, claim(keys, "another").wait_s
    # Between the two questions time goes on.
    assert own < others <= own + STANDBY_MS / 1000


def test_when_the_turn_is_over_whoever_comes_takes_what_there_is(keys: RqKeys, redis_client: redis.Redis) -> None:
    redis_client.set(TURN, "one", px=LONG_MS)
    enqueue(keys, 7, 8)
    redis_client.delete(TURN)
    assert claim(keys, "another").ids == ["7", "8"]


@pytest.mark.parametrize("worker", ["one", "another"])
def test_a_full_batch_waits_for_nobody(keys: RqKeys, redis_client: redis.Redis, worker: str) -> None:
    redis_client.set(TURN, "one", px=LONG_MS)
    enqueue(keys, *range(1, 8))
    assert claim(keys, worker, limit=3).ids == ["1", "2", "3"]
    assert claim(keys, worker, limit=3).ids == ["4", "5", "6"]
    assert claim(keys, worker, limit=3).ids == []


def test_a_burst_worker_waits_for_nobody(keys: RqKeys, redis_client: redis.Redis) -> None:
    redis_client.set(TURN, "one", px=LONG_MS)
    enqueue(keys, 7, 8)
    assert claim(keys, in_turn=False).ids == ["7", "8"]


# The worker


def after_each_wait(worker: BatchWorker, waits: list[float], *, then: object) -> None:
    """Note what a worker would wait, and do something in place of it."""

    def wait(timeout: float | None = None) -> bool:
        assert timeout is not None
        waits.append(timeout)
        assert callable(then)
        then()
        return True

    worker._stopping.wait = wait  # type: ignore[method-assign]


def test_a_worker_waits_as_long_as_it_is_told_and_takes_what_has_gathered(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 3)
    worker = make_worker()
    redis_client.set(TURN, "another", px=LONG_MS)
    waits: list[float] = []

    def gather() -> None:
        assert worker.get_state() == "idle"  # so a signal that comes now ends it at once
        ids.extend(backlog(books, redis_client, 2, first_id=5_000))
        redis_client.delete(TURN)

    after_each_wait(worker, waits, then=gather)
    found = worker.dequeue_job_and_maintain_ttl(15)
    assert found is not None
    assert found[0].ids == [str(each) for each in ids]
    assert len(waits) == 1
    assert LONG_MS / 2_000 < waits[0] <= (LONG_MS + STANDBY_MS) / 1000


def test_a_worker_that_is_told_to_stop_while_it_waits_leaves_everything(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 2)
    worker = make_worker()
    redis_client.set(TURN, "another", px=LONG_MS)
    worker._stopping.set()
    worker._stop_requested = False
    waited = worker._stopping.wait

    def stop(timeout: float | None = None) -> bool:
        worker._stop_requested = True
        return waited(timeout)

    worker._stopping.wait = stop  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(15)
    assert queued(redis_client) == [str(each) for each in ids]


def test_after_a_batch_of_several_the_next_may_gather_and_after_a_full_one_not(
    books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch_size, rests in ((10, [3]), (3, [])):
        worker = make_worker(batch_size=batch_size)
        told: list[int] = []
        monkeypatch.setattr(worker._keys, "rest", lambda _pipeline, _name, *, jobs, told=told: told.append(jobs))
        backlog(books, redis_client, 3, first_id=batch_size * 1_000)
        claimed = worker.dequeue_job_and_maintain_ttl(None)
        assert claimed is not None
        worker.execute_job(*claimed)
        assert told == rests
        assert redis_client.llen(QUEUE) == 0
