"""What is wrong with a Redis, or with the queue in it, is found and named with how to mend it."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from rq.suspension import suspend

from jobs import checkup
from jobs.rq.checkup import check_redis
from jobs.rq.keys import QUEUE, NewJob, RqKeys
from models.checkup import Finding, Level
from models.redis_line.client import connect_redis
from models.snowflake.layout import encode
from ops.local.servers import RedisServer
from tests.jobs.conftest import WorkerMaker
from tests.proxy import TcpProxy

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


def look(client: redis.Redis) -> dict[str, Finding]:
    findings = {each.name: each for each in check_redis(client)}
    assert all((each.remedy is None) == (each.level is OK) for each in findings.values())
    return findings


def levels(client: redis.Redis) -> dict[str, Level]:
    return {name: each.level for name, each in look(client).items() if each.level is not OK}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose configuration is this module's to spoil."""
    with RedisServer(Path(tmp_path_factory.mktemp("redis"))) as server:
        yield server.url


@pytest.fixture
def own_client(own_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server) as client:
        yield client


def test_with_a_sound_server_and_a_worker_all_is_ok(redis_client: redis.Redis, make_worker: WorkerMaker) -> None:
    make_worker()
    findings = look(redis_client)
    assert [*findings] == [
        "redis", "redis eviction", "redis append-only file", "redis memory", "redis clock", "workers", "queue",
    ]  # fmt: skip
    assert {each.level for each in findings.values()} == {OK}
    assert findings["workers"].what == "1 registered"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_forget_jobs_is_named(own_client: redis.Redis, policy: str) -> None:
    own_client.config_set("maxmemory-policy", policy)
    assert levels(own_client)["redis eviction"] is FAIL
    own_client.config_set("maxmemory-policy", "noeviction")
    assert "redis eviction" not in levels(own_client)


def test_a_server_without_an_append_only_file_is_named(own_client: redis.Redis) -> None:
    own_client.config_set("appendonly", "no")
    assert levels(own_client)["redis append-only file"] is WARN


@pytest.mark.parametrize(("used", "level"), [(0.5, OK), (0.8, WARN), (0.99, FAIL)])
def test_a_server_that_runs_out_of_memory_is_named(own_client: redis.Redis, used: float, level: Level) -> None:
    limit = str(own_client.config_get("maxmemory")["maxmemory"])
    own_client.config_set("maxmemory", int(own_client.info("memory")["used_memory"] / used))
    try:
        assert look(own_client)["redis memory"].level is level
    finally:
        own_client.config_set("maxmemory", limit)


def test_a_server_without_a_limit_has_room(own_client: redis.Redis) -> None:
    limit = str(own_client.config_get("maxmemory")["maxmemory"])
    own_client.config_set("maxmemory", 0)
    try:
        assert look(own_client)["redis memory"].what.endswith("no limit")
    finally:
        own_client.config_set("maxmemory", limit)


def test_a_server_that_is_away_is_one_finding(redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    with connect_redis(redis_proxy.url) as client:
        assert levels(client) == {"redis": FAIL}


def test_a_server_that_hangs_is_one_finding_too(redis_proxy: TcpProxy) -> None:
    with connect_redis(redis_proxy.url, answer_timeout_s=0.1) as client:
        redis_proxy.hold()
        assert levels(client) == {"redis": FAIL}
        redis_proxy.resume()


def test_without_workers_jobs_wait(redis_client: redis.Redis) -> None:
    assert levels(redis_client) == {"workers": FAIL}


def test_a_worker_that_has_not_been_heard_of_is_none(redis_client: redis.Redis, make_worker: WorkerMaker) -> None:
    worker = make_worker()
    redis_client.delete(worker.key)
    assert levels(redis_client) == {"workers": FAIL}


def test_suspended_workers_are_named(redis_client: redis.Redis, make_worker: WorkerMaker) -> None:
    make_worker()
    suspend(redis_client)
    assert levels(redis_client) == {"workers": FAIL}


@pytest.mark.parametrize(("age_s", "level"), [(0, OK), (50, OK), (70, WARN)])
def test_a_queue_is_as_old_as_its_first_job(
    redis_client: redis.Redis, keys: RqKeys, make_worker: WorkerMaker, age_s: int, level: Level
) -> None:
    make_worker()
    now_ms = time.time_ns() // 1_000_000
    keys.enqueue([NewJob(encode(now_ms - seconds * 1_000, 1, seconds), None) for seconds in (age_s, 1)])
    found = look(redis_client)["queue"]
    assert (found.level, found.what.partition(",")[0]) == (level, "2 jobs")


def test_anything_may_stand_on_the_queue(redis_client: redis.Redis) -> None:
    redis_client.rpush(QUEUE, b"\xff no transfer")
    assert look(redis_client)["queue"].level is OK


def test_a_clock_here_that_is_ahead_makes_the_servers_late(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "time", SimpleNamespace(time=lambda: time.time() + 5))
    found = look(redis_client)["redis clock"]
    assert (found.level, found.what.partition(".")[2][1:]) == (WARN, " s behind this machine's")
