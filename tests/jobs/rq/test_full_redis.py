"""A Redis without memory: the queue leaves room in it, and when it is full all the same, everything is settled."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from rq import Worker
from rq.suspension import WORKERS_SUSPENDED
from sqlalchemy import Engine

from jobs.relay import Relay
from jobs.rq import keys as rq_keys
from jobs.rq.backlog import RqBacklog
from jobs.rq.checkup import check_redis
from jobs.rq.keys import FAILED, FINISHED, MOST, SCHEDULED, STARTED, NewJob, RqKeys
from jobs.rq.way_on import RqWayOn
from models.redis_line.client import connect_redis
from ops.local.processes import wait_for
from ops.local.servers import RedisServer
from tests.jobs.backlog import (
    accept,
    are_final,
    assert_posted_once,
    count_pending,
    due,
    hash_of,
    members,
    queued,
    status_of,
)
from tests.jobs.conftest import WorkerMaker, WorkerStarter, drain
from tests.patience import PATIENCE_S
from tests.small_redis import ROOMY

WORKER = "rq:worker:tests"


@pytest.fixture
def keys(small_client: redis.Redis) -> RqKeys:
    """The steps of a job's life in it."""
    return RqKeys(small_client)


@pytest.fixture
def queue(small_client: redis.Redis, small_redis: RedisServer) -> Iterator[RqWayOn]:
    """The way onto the queue, as a request has it."""
    del small_client
    queue = RqWayOn(connect_redis(small_redis.url))
    yield queue
    queue.close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the jobs that are let in whatever the memory is, no more than ten, five of them only for the relay."""
    monkeypatch.setattr(rq_keys, "FEWEST_WAITING", 10)
    monkeypatch.setattr(rq_keys, "RESERVED_WAITING", 5)


def used(small_client: redis.Redis) -> int:
    return int(small_client.info("memory")["used_memory"])


def measure_again(small_client: redis.Redis) -> None:
    """Let the next one who enqueues look at the memory."""
    small_client.delete(MOST)


def leave_room(small_client: redis.Redis, jobs: int) -> int:
    """Set a limit under which so many jobs more are the queue's share of the memory, and return it in bytes."""
    limit = int((used(small_client) + jobs * rq_keys.JOB_BYTES) / rq_keys.MEMORY_SHARE)
    small_client.config_set("maxmemory", limit)
    measure_again(small_client)
    return limit


def fill(small_client: redis.Redis) -> None:
    """Let there be no memory left, and be known."""
    small_client.config_set("maxmemory", 1)
    measure_again(small_client)
    with pytest.raises(redis.ResponseError, match="used memory"):
        small_client.set("one more", "x")


def new(*ids: int) -> list[NewJob]:
    return [NewJob(each, None) for each in ids]


# --- the queue leaves room


def test_waiting_jobs_take_a_share_of_the_memory_and_others_find_room(
    few: None, small_client: redis.Redis, keys: RqKeys
) -> None:
    del few
    limit = leave_room(small_client, 2_000)
    pushed = 0
    for first in range(1, 10_001, 100):
        pushed += keys.enqueue(new(*range(first, first + 100)))
        measure_again(small_client)
    assert 1_000 < pushed < 3_000
    assert used(small_client) < limit * (rq_keys.MEMORY_SHARE + 0.05)
    assert small_client.set("something else", "x" * 10_000)


def test_so_many_jobs_may_wait_whatever_the_memory_and_some_places_are_for_those_who_have_waited_longer(
    few: None, small_client: redis.Redis, keys: RqKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    del few
    monkeypatch.setattr(rq_keys, "MOST_WAITING", 100)
    small_client.config_set("maxmemory", 0)
    assert keys.feed(new(*range(1, 201)), lost=False) == (95, 105)
    assert keys.feed(new(*range(1, 10)), lost=False) == (0, 0)  # these are there
    assert keys.feed(new(*range(301, 401))) == (5, 95)
    assert len(queued(small_client)) == 100


def test_the_memory_is_looked_at_no_more_than_once_a_second(small_client: redis.Redis, keys: RqKeys) -> None:
    leave_room(small_client, 50_000)
    small_client.config_resetstat()
    for number in range(1, 100):
        keys.enqueue(new(number))
    asked = small_client.info("commandstats")["cmdstat_info"]["calls"]
    assert asked < 50
    assert 0 < small_client.pttl(MOST) <= 1_000


def test_a_server_that_does_not_tell_its_memory_has_room(
    small_client: redis.Redis, keys: RqKeys, small_redis: RedisServer
) -> None:
    small_client.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    host, port = small_redis.url.rpartition("@")[2].split("/")[0].split(":")
    with redis.Redis(host=host, port=int(port), username="mute", password="x") as mute:
        assert RqKeys(mute).enqueue(new(1, 2)) == 2
    assert keys.queue_length() == 2


def test_who_finds_no_room_is_told_so_and_is_no_fault(few: None, small_client: redis.Redis, queue: RqWayOn) -> None:
    del few
    leave_room(small_client, 0)
    assert [queue._push([NewJob(number, None)], lost=False) for number in range(1, 9)] == [True] * 5 + [False] * 3
    assert queue._circuit.allows()
    leave_room(small_client, 1_000)
    assert queue._push([NewJob(8, None)], lost=False)


def test_the_relay_feeds_in_what_waits_in_postgresql_the_oldest_first(
    few: None, books: Engine, small_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    del few
    monkeypatch.setattr(rq_keys, "MOST_WAITING", 300)
    monkeypatch.setattr("jobs.relay.PAGE", 100)
    ids = accept(books, 1_000)
    relay, keys = Relay(RqBacklog(small_client, books), books), RqKeys(small_client)
    taken: list[str] = []
    while len(taken) < len(ids):
        relay.run_once()
        assert relay.is_full is (len(taken) < 700)
        taken += keys.claim(worker_key=WORKER, worker_name="tests", lease="l", limit=150, lease_s=60).ids
    assert taken == [str(each) for each in ids]


def test_what_is_accepted_beyond_the_queues_share_is_settled_when_workers_come(
    few: None,
    *,
    books: Engine,
    small_client: redis.Redis,
    small_redis: RedisServer,
    queue: RqWayOn,
    start_worker: WorkerStarter,
) -> None:
    """Workers are down, the queue's share is reached, and acceptance goes on."""
    del few
    leave_room(small_client, 500)
    ids = accept(books, 3_000)
    for number in ids:
        queue.put_on(due(number))
    assert wait_for(queue._accepted.empty, PATIENCE_S)
    assert queue.ping()  # others find memory
    assert 100 < RqKeys(small_client).queue_length() < 1_500
    worker = start_worker(lease_s=10.0, REDIS_URL=small_redis.url)
    assert wait_for(lambda: count_pending(books) == 0, PATIENCE_S), worker.log.read_text()
    assert_posted_once(books, ids)
    worker.stop()


def test_where_memory_is_short_finished_jobs_are_not_kept(small_client: redis.Redis, keys: RqKeys) -> None:
    keys.enqueue(new(1, 2))
    claim = keys.claim(worker_key=WORKER, worker_name="tests", lease="l", limit=10, lease_s=60)
    keys.finish("l", [1])
    assert (status_of(small_client, 1), [*members(small_client, FINISHED)]) == ("finished", ["1"])
    fill(small_client)
    keys.finish("l", [2])
    assert (claim.ids, hash_of(small_client, 2), members(small_client, STARTED)) == (["1", "2"], {}, {})


# --- a full one


def test_a_full_redis_takes_every_step_of_a_jobs_life(small_client: redis.Redis, keys: RqKeys) -> None:
    def claim(lease: str, lease_s: float = 60.0) -> list[str]:
        return keys.claim(worker_key=WORKER, worker_name="tests", lease=lease, limit=10, lease_s=lease_s).ids

    fill(small_client)
    assert keys.enqueue(new(1, 2, 3, 4)) == 4
    assert claim("a") == ["1", "2", "3", "4"]
    assert keys.renew("a", ["1", "2", "3", "4"], lease_s=60) == 4
    assert keys.hand_back("a", [1, 2, 3, 4]) == 4
    assert claim("b", lease_s=0.0) == ["1", "2", "3", "4"]
    assert keys.reap(limit=10).moved == {"1": 1, "2": 1, "3": 1, "4": 1}
    assert sorted(claim("c")) == ["1", "2", "3", "4"]
    assert keys.postpone("c", {1: datetime.now(UTC)}) == 1
    assert keys.bury(2, generation=0, error="told to", lease="c")
    assert keys.bury(9, generation=0, error="one that Redis has forgotten")
    assert [*members(small_client, FAILED)] == ["2", "9"]
    assert keys.requeue(["2"]) == 1
    assert keys.find_lost([1, 2, 3, 7]) == [1, 7]
    keys.finish("c", [3, 4])
    assert ([*members(small_client, SCHEDULED)], members(small_client, STARTED)) == (["1"], {})
    keys.wait_for_jobs(1)


def test_a_worker_that_is_started_with_a_full_redis_registers_and_settles_what_postgresql_has(
    *,
    books: Engine,
    small_client: redis.Redis,
    small_redis: RedisServer,
    queue: RqWayOn,
    start_worker: WorkerStarter,
) -> None:
    fill(small_client)
    ids = accept(books, 50)
    worker = start_worker(lease_s=10.0, REDIS_URL=small_redis.url)
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), worker.log.read_text()
    assert [each.pid for each in Worker.all(connection=small_client)] == [worker.pid]
    (found,) = (each for each in check_redis(small_client) if each.name == "workers")
    assert found.what == "1 registered"
    # And one that runs goes on to be given new ones, for which its own figures are no hindrance.
    more = accept(books, 50, first_id=5_000)
    assert all(queue._push([NewJob(number, None)], lost=False) for number in more)
    assert wait_for(lambda: are_final(books, more), PATIENCE_S), worker.log.read_text()
    assert_posted_once(books, [*ids, *more])
    worker.stop()
    assert '"waiting"' not in worker.log.read_text()
    assert Worker.all(connection=small_client) == []


def test_a_suspended_worker_stays_so_when_redis_is_full(
    *, books: Engine, small_client: redis.Redis, small_redis: RedisServer, start_worker: WorkerStarter
) -> None:
    small_client.set(WORKERS_SUSPENDED, 1)
    worker = start_worker(lease_s=10.0, REDIS_URL=small_redis.url)
    seen: Callable[[], list[Any]] = lambda: [each.get_state() for each in Worker.all(connection=small_client)]  # noqa: E731
    assert wait_for(lambda: seen() == ["suspended"], PATIENCE_S), worker.log.read_text()
    fill(small_client)
    ids = accept(books, 5)
    assert wait_for(lambda: len(queued(small_client)) == 5, PATIENCE_S), worker.log.read_text()  # its relay goes on
    (before,) = Worker.all(connection=small_client)
    assert wait_for(
        lambda: Worker.all(connection=small_client)[0].last_heartbeat > before.last_heartbeat,  # type: ignore[operator]
        PATIENCE_S,
    )
    assert count_pending(books) == 5
    small_client.delete(WORKERS_SUSPENDED)
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), worker.log.read_text()
    worker.stop()


def test_a_worker_driven_by_hand_counts_when_there_is_memory_and_works_when_there_is_none(
    *, books: Engine, small_client: redis.Redis, small_redis: RedisServer, make_worker: WorkerMaker
) -> None:
    worker = make_worker(url=small_redis.url)
    first, second = accept(books, 2)
    RqKeys(small_client).enqueue(new(first))
    drain(worker)
    fill(small_client)
    RqKeys(small_client).enqueue(new(second))
    drain(worker)
    assert_posted_once(books, [first, second])
    small_client.config_set("maxmemory", ROOMY)
    (shown,) = Worker.all(connection=small_client)
    assert shown.successful_job_count == 1
