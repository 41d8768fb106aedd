"""rq-dashboard: for administrators only; nothing changes by a look; what does not exist is not found."""

import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from jobs.relay import Relay
from jobs.retries import RetryPolicy
from jobs.rq.backlog import RqBacklog
from jobs.rq.keys import DEAD, FAILED, QUEUE, STARTED, NewJob, RqKeys
from jobs.rq.worker import BatchWorker
from jobs.settler import Settler
from ops.local.processes import wait_for
from tests.api.calls import ADMIN, JOBS, Json, accept, answer, ask, balance_of, basic, decode, get, problem
from tests.api.conftest import AppMaker
from tests.jobs.backlog import hash_of, job_of, members, queued, status_of, stock_queue
from tests.jobs.conftest import drain
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

PAGES = ["/rq/", "/rq/0/view/workers", "/rq/0/view/jobs"]
OTHER_NAMES = ["/rq", "/rq/0/", "/rq/0/view", "/rq/0/view/queues"]
DATA = ["/rq/0/data/queues.json", "/rq/0/data/workers.json"]
FILES = ["/rq/favicon.ico", "/rq/static/css/main.css", "/rq/static/js/jquery-3.5.1.min.js"]
REGISTRIES = ["queued", "started", "finished", "failed", "deferred", "scheduled", "canceled"]
CHANGES = ["job/{job}/delete", "job/{job}/requeue", "requeue/transfers", "queue/transfers/compact"]
CHANGES += [f"queue/transfers/{registry}/empty" for registry in REGISTRIES]
EVERYTHING = [("GET", path) for path in PAGES + DATA + FILES + OTHER_NAMES + ["/rq/none", "/rq/requeue/transfers"]]
EVERYTHING += [("POST", f"/rq/{path}".format(job=7)) for path in CHANGES] + [("DELETE", "/rq/"), ("OPTIONS", "/rq/")]

Bury = Callable[[str], None]


@pytest.fixture
def admin(funded: FlaskClient) -> FlaskClient:
    """A client of a funded application."""
    return funded


def look(client: FlaskClient, path: str, status: int = 200) -> bytes:
    """Read one of the pages as an administrator."""
    with get(client, path, user=ADMIN) as response:
        page: bytes = response.data
        assert response.status_code == status, page
        return page


def data(client: FlaskClient, path: str) -> Json:
    """Read one of the JSON resources as an administrator."""
    return answer(get(client, f"/rq/0/data/{path}.json", user=ADMIN))


def change(client: FlaskClient, path: str, **headers: str) -> TestResponse:
    """Press one of the buttons."""
    return ask(client, "POST", f"/rq/{path}", user=ADMIN, headers=headers)


def listed(client: FlaskClient, registry: str, page: str = "8/asc/1") -> list[str]:
    """The ids that a page shows."""
    return [job["id"] for job in data(client, f"jobs/transfers/{registry}/{page}")["jobs"]]


def everything_in(client: redis.Redis) -> dict[str, tuple[bytes, bool]]:
    """All that RQ holds in Redis, key by key."""
    raw: Any = client
    return {key.decode(): (raw.dump(key), raw.pttl(key) > 0) for key in raw.keys("rq:*")}


def accept_onto_queue(client: FlaskClient, redis_client: redis.Redis, amount: int = 67) -> str:
    """Give a transfer to the queue, and wait until its job stands on it."""
    job_id = accept(client, amount)
    assert wait_for(lambda: job_id.encode() in redis_client.lrange(QUEUE, 0, -1), PATIENCE_S)
    return job_id


@pytest.fixture
def busy_worker(redis_client: redis.Redis) -> Iterator[SimpleWorker]:
    """A stock worker in the midst of a job."""
    queue = stock_queue(redis_client)
    worker = SimpleWorker([queue], connection=redis_client, serializer=JSONSerializer)
    worker.register_birth()  # type: ignore[no-untyped-call]
    job = queue.enqueue("jobs.transfers.run", "seven", job_id="busy", meta={"tp": "x"})
    redis_client.lrem(QUEUE, 0, "busy")
    worker.prepare_job_execution(job)
    worker.prepare_execution(job)
    job.set_status("started")  # type: ignore[arg-type]
    worker.set_state("busy")
    yield worker
    worker.register_death()  # type: ignore[no-untyped-call]


@pytest.fixture
def work(app: Flask, engine: Engine, redis_client: redis.Redis) -> Callable[[], None]:
    """Let a worker run whatever waits."""
    settler = Settler(engine, RetryPolicy((60.0,)), app.extensions["wallet"].cache)
    worker = BatchWorker(redis_client, settler, batch_size=10)
    worker.register_birth()

    def work() -> None:
        assert drain(worker)

    return work


@pytest.fixture
def restore(engine: Engine, redis_client: redis.Redis) -> Callable[[], int]:
    """Let the relay look once, and return how many jobs it put back."""
    return Relay(RqBacklog(redis_client, engine), engine).run_once


@pytest.mark.parametrize(
    ("credentials", "code"), [(None, "unauthorized"), (1, "forbidden"), (basic("admin", "wrong"), "unauthorized")]
)
def test_nothing_is_there_for_anybody_else(make_app: AppMaker, credentials: int | str | None, code: str) -> None:
    client = make_app(rate_limit="off").test_client()  # or the address would soon be told that it guesses too often
    for method, path in EVERYTHING:
        response = ask(client, method, path, user=credentials)
        problem(response, code)
        if code == "unauthorized":  # so that a browser asks for name and password
            assert response.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", PAGES + DATA + FILES)
def test_administrators_see_it_under_a_policy_without_inline_scripts(client: FlaskClient, path: str) -> None:
    with get(client, path, user=ADMIN) as response:
        assert response.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"].startswith("'nonce-")
        assert "unsafe" not in policy["script-src"]
        nonce = policy["script-src"].removeprefix("'nonce-").removesuffix("'")
        page = response.data.decode(errors="replace")
        assert page.count("<script ") == page.count(f'<script nonce="{nonce}"') + page.count('type="text/template"')
    with get(client, path, user=ADMIN) as again:
        assert again.headers["Content-Security-Policy"] != response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", OTHER_NAMES)
def test_its_other_names_lead_to_the_page(client: FlaskClient, path: str) -> None:
    response = get(client, path, user=ADMIN)
    assert (response.status_code, response.headers["Location"]) == (308, "/rq/")


@pytest.mark.parametrize("path", PAGES)
def test_no_page_asks_anybody_else_for_anything(client: FlaskClient, path: str) -> None:
    page = look(client, path).decode()
    assert "src=" in page
    assert not any(f'{name}="{start}' in page for name in ("src", "href") for start in ("//", "data:", "http://fonts"))
    assert [line for line in page.splitlines() if "http" in line and "<a href=" not in line] == []


def test_jobs_are_read_as_the_json_that_they_are(admin: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = accept_onto_queue(admin, redis_client)
    shown = data(admin, f"job/{job_id}")
    assert (shown["id"], shown["status"], shown["origin"], shown["description"]) == (
        job_id,
        "queued",
        "transfers",
        "transfer",
    )
    assert json.loads(shown["metadata"])["tp"].startswith("00-")
    assert listed(admin, "queued") == [job_id]
    assert data(admin, "queues")["queues"][0]["count"] == 1
    assert job_id in look(admin, f"/rq/0/view/job/{job_id}").decode()


def test_a_job_names_those_that_it_waits_for(client: FlaskClient, redis_client: redis.Redis) -> None:
    queue = stock_queue(redis_client)
    first = queue.enqueue("f", job_id="first")
    second = queue.enqueue("f", job_id="second", depends_on=first)
    redis_client.sadd(second.dependencies_key, "gone", b"\xff")
    shown = data(client, "job/second")
    assert shown["status"] == "deferred"
    statuses = dict(zip(shown["depends_on"], shown["depends_on_status"], strict=True))
    assert statuses == {"first": "active", "gone": "expired", "\\xff": "expired"}
    assert listed(client, "deferred") == ["second"]


def test_workers_are_shown_while_they_are_busy(
    client: FlaskClient, redis_client: redis.Redis, busy_worker: SimpleWorker
) -> None:
    shown = data(client, "workers")["workers"]
    assert [(worker["name"], worker["state"]) for worker in shown] == [(busy_worker.name, "busy")]
    assert shown[0]["current_job"]["call_string"] == "jobs.transfers.run('seven')"
    look(client, "/rq/0/view/workers")
    # Ours names the first job of its batch.
    RqKeys(redis_client).enqueue([NewJob(7, None)])
    redis_client.delete(busy_worker.executions_key)
    RqKeys(redis_client).claim(worker_key=busy_worker.key, worker_name="w", lease="l", limit=9, lease_s=60)
    assert data(client, "workers")["workers"][0]["current_job"]["job_id"] == "7"
    assert sorted(listed(client, "started")) == ["7", "busy"]


def test_a_look_at_workers_leaves_the_client_impatient(client: FlaskClient, busy_worker: SimpleWorker) -> None:
    assert busy_worker.name in look(client, DATA[1]).decode()
    dashboard: Any = client.application.wsgi_app._application._dashboard  # type: ignore[attr-defined]
    pool: Any = dashboard.redis_conn.connection_pool
    assert pool.connection_kwargs["socket_timeout"] == 2.0


def test_nothing_changes_by_a_look(admin: FlaskClient, redis_client: redis.Redis, busy_worker: SimpleWorker) -> None:
    """Also where RQ would tidy up: leases that have run out, ids without a job, workers that are gone."""
    keys = RqKeys(redis_client)
    for _ in range(3):
        accept_onto_queue(admin, redis_client)
    keys.claim(worker_key="rq:worker:gone", worker_name="gone", lease="l", limit=1, lease_s=-100)
    redis_client.delete("rq:worker:gone")
    redis_client.sadd("rq:workers", "rq:worker:gone", "nonsense", b"rq:worker:\xff")
    redis_client.rpush(QUEUE, "no-job", b"\xff", "spaces are not allowed")
    redis_client.sadd(busy_worker.executions_key, "no-job:no-execution")
    redis_client.zadd(STARTED, {"no-lease": 1, "no-job:lease": 1})
    redis_client.zadd("rq:finished:transfers", {"long-gone": 1})
    keys.bury(4, generation=1, error="told to")
    before = everything_in(redis_client)
    for path in PAGES + DATA + FILES:
        look(admin, path)
    for registry in REGISTRIES:
        for order in ("asc", "dsc"):
            look(admin, f"/rq/0/view/jobs/transfers/{registry}/8/{order}/1")
            data(admin, f"jobs/transfers/{registry}/8/{order}/1")
    for path in ("view/job/4", "data/job/4.json"):
        look(admin, f"/rq/0/{path}")
    assert everything_in(redis_client) == before


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_changes_something_cannot_be_had_by_a_get(
    client: FlaskClient, redis_client: redis.Redis, method: str
) -> None:
    RqKeys(redis_client).bury(7, generation=1, error="told to")
    before = everything_in(redis_client)
    for path in CHANGES:
        response = ask(client, method, f"/rq/{path}".format(job=7), user=ADMIN)
        assert (response.status_code, response.headers["Allow"]) == (405, "OPTIONS, POST"), path
        if method == "GET":
            problem(response, "method_not_allowed")
    assert everything_in(redis_client) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_another_sites_page_cannot_change_anything(
    client: FlaskClient, redis_client: redis.Redis, headers: dict[str, str]
) -> None:
    RqKeys(redis_client).bury(7, generation=1, error="told to")
    before = everything_in(redis_client)
    for path in CHANGES:
        problem(change(client, path.format(job=7), **headers), "forbidden")
    assert everything_in(redis_client) == before


def test_its_own_page_and_a_command_line_can(client: FlaskClient, redis_client: redis.Redis) -> None:
    for headers in (
        {},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://localhost"},
    ):
        RqKeys(redis_client).bury(7, generation=1, error="told to")
        assert answer(change(client, "requeue/transfers", **headers)) == {"status": "OK", "count": 1}


def test_what_does_not_exist_is_not_found(client: FlaskClient) -> None:
    for path in (
        "/rq/none",
        "/rq/static/none.js",
        "/rq/static/../web.py",
        "/rq/1/",
        "/rq/1/view/workers",
        "/rq/99999999999999999999/view/jobs",
        "/rq/1/data/queues.json",
        "/rq/0/view/jobs/none/queued/8/asc/1",
        "/rq/0/view/jobs/default/queued/8/asc/1",
        "/rq/0/data/jobs/none/queued/8/asc/1.json",
        "/rq/0/data/jobs/transfers/none/8/asc/1.json",
        "/rq/0/view/jobs/transfers/none/8/asc/1",
        "/rq/0/data/jobs/transfers/queued/8/up/1.json",
        "/rq/0/data/jobs/transfers/queued/0/asc/1.json",
        "/rq/0/data/jobs/transfers/queued/-1/asc/1.json",
        "/rq/0/data/jobs/transfers/queued/201/asc/1.json",
        "/rq/0/data/jobs/transfers/queued/8/asc/0.json",
        "/rq/0/data/jobs/transfers/queued/x/asc/1.json",
        "/rq/0/data/jobs/transfers/queued/8/asc/99999999999999999999.json",
        "/rq/0/view/jobs/transfers/queued/8/asc/99999999999999999999",
        "/rq/0/data/worker/none.json",
    ):
        problem(get(client, path, user=ADMIN), "not_found")


def test_an_unknown_job_is_not_found(client: FlaskClient) -> None:
    for job_id in ("none", "7", "a b", "%00", "%ff", "'%22%3E", "none:execution"):
        for path in (f"view/job/{job_id}", f"data/job/{job_id}.json"):
            problem(get(client, f"/rq/0/{path}", user=ADMIN), "job_not_found")
        for path in (f"job/{job_id}/delete", f"job/{job_id}/requeue"):
            problem(change(client, path), "job_not_found")


def test_an_unknown_queue_cannot_be_changed(client: FlaskClient) -> None:
    for path in ("requeue/none", "queue/none/compact", "queue/none/queued/empty", "queue/transfers/none/empty"):
        problem(change(client, path), "not_found")


def test_only_a_failed_job_can_be_requeued(admin: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = accept_onto_queue(admin, redis_client)
    problem(change(admin, f"job/{job_id}/requeue"), "job_not_found")
    assert queued(redis_client) == [job_id]


def test_a_long_list_is_shown_page_by_page(client: FlaskClient, redis_client: redis.Redis) -> None:
    keys = RqKeys(redis_client)
    for number in range(1, 8):
        keys.bury(number, generation=1, error="told to")
    keys.enqueue([NewJob(number, None) for number in range(11, 18)])
    for registry, first in (("failed", 1), ("queued", 11)):
        ids = [str(number) for number in range(first, first + 7)]
        assert [listed(client, registry, f"3/asc/{page}") for page in (1, 2, 3, 4)] == [ids[:3], ids[3:6], ids[6:], []]
        newest = ids[::-1]
        assert [listed(client, registry, f"3/dsc/{page}") for page in (1, 2, 3, 4)] == [
            newest[:3],
            newest[3:6],
            newest[6:],
            [],
        ]
    pagination = data(client, "jobs/transfers/failed/3/asc/2")["pagination"]
    assert (pagination["num_pages"], pagination["current_page"]) == (3, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", zlib.compress(pickle.dumps(("f", None, (), {})))),
        ("data", b"\xff"),
        ("meta", pickle.dumps({"a": 1})),
        ("meta", b"[" * 5_000),
        ("meta", b'{"a": 99999999999999999999999}'),
        ("created_at", b"yesterday"),
        ("status", b"none"),
        ("status", b""),
        ("description", b"\xff"),
        ("origin", b"\xff"),
        ("timeout", b"x"),
        ("dependency_ids", b"{"),
    ],
)
def test_a_job_that_is_none_stops_no_page(
    client: FlaskClient, redis_client: redis.Redis, field: str, value: bytes
) -> None:
    RqKeys(redis_client).enqueue([NewJob(7, None), NewJob(8, None)])
    redis_client.hset("rq:job:7", field, value)
    assert listed(client, "queued") in (["7", "8"], ["8"])
    for path in ("/rq/0/data/job/7.json", "/rq/0/view/job/7"):
        response = get(client, path, user=ADMIN)
        if response.status_code != 200:
            problem(response, "job_not_found")


@pytest.mark.parametrize(
    "result",
    [
        {"type": "1", "return_value": "bm8gSlNPTg=="},
        {"type": "2", "exc_string": "bm8gemxpYg=="},
        {"type": "9"},
        {"exc_string": "!"},
    ],
)
def test_a_result_that_is_none_stops_no_page(
    client: FlaskClient, redis_client: redis.Redis, result: dict[Any, Any]
) -> None:
    RqKeys(redis_client).bury(7, generation=1, error="told to")
    redis_client.xadd("rq:results:7", result)
    assert listed(client, "failed") == ["7"]
    assert data(client, "job/7")["exc_info"] is None


def test_a_requeued_dead_letter_is_reopened_and_posted(
    admin: FlaskClient, redis_client: redis.Redis, bury: Bury, work: Callable[[], None]
) -> None:
    jobs = [accept_onto_queue(admin, redis_client, 1) for _ in range(3)]
    for job_id in jobs:
        bury(job_id)
    work()  # finds them failed, and books them so
    assert sorted(members(redis_client, FAILED)) == jobs
    assert {answer(get(admin, f"{JOBS}/{job_id}"))["status"] for job_id in jobs} == {"failed"}

    assert answer(change(admin, f"job/{jobs[0]}/requeue")) == {"status": "OK"}
    assert (queued(redis_client), status_of(redis_client, jobs[0])) == ([jobs[0]], "queued")
    work()
    assert answer(get(admin, f"{JOBS}/{jobs[0]}"))["status"] == "posted"
    assert balance_of(admin, 1) == 9_999

    assert answer(change(admin, "requeue/transfers")) == {"status": "OK", "count": 2}
    assert members(redis_client, FAILED) == {}
    work()
    assert {answer(get(admin, f"{JOBS}/{job_id}"))["status"] for job_id in jobs} == {"posted"}
    assert balance_of(admin, 1) == 9_997


@pytest.mark.parametrize("press", ["job/{job}/delete", "queue/transfers/queued/empty"])
def test_what_is_deleted_here_is_no_transfer_lost(
    admin: FlaskClient, redis_client: redis.Redis, work: Callable[[], None], restore: Callable[[], int], press: str
) -> None:
    job_id = accept_onto_queue(admin, redis_client)
    assert answer(change(admin, press.format(job=job_id))) == {"status": "OK"}
    assert (queued(redis_client), hash_of(redis_client, job_id)) == ([], {})
    assert restore() == 1
    work()
    assert answer(get(admin, f"{JOBS}/{job_id}"))["status"] == "posted"


def test_emptying_the_started_registry_loses_no_transfer_either(
    admin: FlaskClient, redis_client: redis.Redis, work: Callable[[], None], restore: Callable[[], int]
) -> None:
    job_id = accept_onto_queue(admin, redis_client)
    RqKeys(redis_client).claim(worker_key="rq:worker:w", worker_name="w", lease="l", limit=1, lease_s=60)
    redis_client.zadd(STARTED, {"no-lease": 1, "no-job:lease": 1})
    assert answer(change(admin, "queue/transfers/started/empty")) == {"status": "OK"}
    assert "no-job:lease" not in members(redis_client, STARTED)
    assert restore() == 1
    work()
    assert answer(get(admin, f"{JOBS}/{job_id}"))["status"] == "posted"


def test_every_registry_can_be_emptied(client: FlaskClient, redis_client: redis.Redis) -> None:
    keys = RqKeys(redis_client)
    keys.enqueue([NewJob(7, None)])
    keys.bury(8, generation=1, error="told to")
    for registry in REGISTRIES * 2:  # the second time all are empty
        assert answer(change(client, f"queue/transfers/{registry}/empty")) == {"status": "OK"}
        assert listed(client, registry) == []


def test_compacting_takes_out_what_has_no_job(client: FlaskClient, redis_client: redis.Redis) -> None:
    RqKeys(redis_client).enqueue([NewJob(7, None), NewJob(8, None)])
    redis_client.lpush(QUEUE, "no-job", b"\xff")
    assert answer(change(client, "queue/transfers/compact")) == {"status": "OK"}
    assert queued(redis_client) == ["7", "8"]
    redis_client.delete(QUEUE)
    assert answer(change(client, "queue/transfers/compact")) == {"status": "OK"}


@pytest.mark.parametrize("fault", ["refuse", "hold"])
def test_with_redis_gone_it_is_unavailable(make_app: AppMaker, redis_proxy: TcpProxy, fault: str) -> None:
    client = make_app(redis_url=redis_proxy.url).test_client()
    look(client, "/rq/")
    getattr(redis_proxy, fault)()
    for path in ("/rq/", "/rq/0/data/workers.json", "/rq/0/view/job/7"):
        problem(get(client, path, user=ADMIN), "unavailable")
    problem(change(client, "requeue/transfers"), "unavailable")
    look(client, "/rq/static/css/main.css")
    redis_proxy.resume()


def test_what_redis_is_reached_by_is_not_shown(client: FlaskClient, redis_url: str) -> None:
    page = look(client, "/rq/").decode()
    assert redis_url.rpartition("@")[2] not in page
    assert "redis://" not in page


def test_a_foreign_queue_is_shown_and_its_failed_jobs_go_back_to_it(
    client: FlaskClient, redis_client: redis.Redis
) -> None:
    queue = Queue("'\"><script>", connection=redis_client, serializer=JSONSerializer)
    job = queue.enqueue("none.none", job_id="foreign")
    SimpleWorker([queue], connection=redis_client, serializer=JSONSerializer).work(burst=True, logging_level="CRITICAL")
    assert job.get_status().value == "failed"
    redis_client.hset("rq:job:foreign", DEAD, "kept")
    name = "'%22%3E%3Cscript%3E"
    page = look(client, f"/rq/0/view/jobs/{name}/failed/8/asc/1").decode()
    assert "<script>" not in page
    assert "'\"" not in page
    assert (
        decode(get(client, f"/rq/0/data/jobs/{name}/failed/8/asc/1.json", user=ADMIN).data)["jobs"][0]["id"] == job.id
    )
    assert answer(change(client, f"requeue/{name}")) == {"status": "OK", "count": 1}
    assert redis_client.lrange(queue.key, 0, -1) == [b"foreign"]
    assert job_of(redis_client, "foreign").get_status().value == "queued"
