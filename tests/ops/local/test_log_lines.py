"""What the whole service writes to its logs: JSON only, no secret ever, and one trace from the client to the worker."""

import base64
import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis

from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

PAYER, PAYEE = 1, 2
JOBS = "/api/jobs/v1"
_HOLD_UP = """
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'held up'; END$$;
    CREATE TRIGGER hold_up BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION hold_up()"""
_REFUSE_ORDERS = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$;
    CREATE TRIGGER refuse BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION refuse()"""
_LET_GO = "DROP FUNCTION {} CASCADE"

Line = dict[str, Any]


pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("log_lines")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack") / "home", WORKERS="1", RETRY_DELAYS=",".join(["0.2"] * 20)) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    """The stack, up again if a test has stopped it."""
    if not shared.is_running:
        shared.start()
    return shared


def ask(stack: Stack, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    try:
        sent = {"Authorization": str(PAYER), "Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def transfer(stack: Stack) -> tuple[str, str]:
    """Hand in a transfer under a trace of the client's own; return the trace's id and the job's."""
    trace_id = secrets.token_hex(16)
    body = {"destination_user_id": PAYEE, "amount": 1}
    status, answer = ask(stack, "POST", "/api/transfer/v2", body, traceparent=f"00-{trace_id}-{'b' * 16}-01")
    assert status == 202
    return trace_id, answer["job_id"]


def execute(stack: Stack, statement: str) -> None:
    connection = psycopg2.connect(stack.state()["postgres"]["url"])
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def lines(stack: Stack, kind: str) -> list[Line]:
    """Return the lines of one log so far, whole ones only."""
    text = (stack.home / "logs" / f"{kind}.log").read_text()
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def of_trace(stack: Stack, kind: str, trace_id: str) -> list[Line]:
    return [line for line in lines(stack, kind) if line.get("trace_id") == trace_id]


def assert_followed(stack: Stack, trace_id: str, job_id: str) -> None:
    """The trace has one line in the API's log, and one in the worker's that says how the job ended."""

    def settled() -> list[Line]:
        return [line for line in of_trace(stack, "worker", trace_id) if line["event"] == "transfer settled"]

    wait_until(lambda: bool(settled()), PATIENCE_S, "the worker has settled it")
    assert [(line["job_id"], line["status"]) for line in settled()] == [(job_id, "posted")]
    (access,) = (line for line in of_trace(stack, "api", trace_id) if line["event"] == "request")
    assert (access["status"], access["user_id"], access["route"]) == (202, str(PAYER), "/api/transfer/v2")
    assert access["duration_ms"] > 0
    assert access["request_id"]
    assert access["job_id"] == job_id


def test_one_trace_leads_from_the_client_to_the_worker(stack: Stack) -> None:
    assert_followed(stack, *transfer(stack))

    # Nobody takes the job, and then Redis forgets it, and that nobody is to take it.
    with redis.Redis.from_url(stack.state()["redis"]["url"]) as client:
        client.set("rq:suspended", 1)
        wait_until(lambda: "suspended" in (stack.home / "logs" / "worker.log").read_text(), PATIENCE_S, "it is heeded")
        followed = transfer(stack)
        wait_until(lambda: client.llen("rq:queue:transfers") == 1, PATIENCE_S, "the job is on the queue")
        client.flushall()
    assert_followed(stack, *followed)

    execute(stack, _HOLD_UP)
    trace_id, job_id = transfer(stack)

    def failed() -> list[Line]:
        return [line for line in of_trace(stack, "worker", trace_id) if line["event"] == "attempt failed"]

    wait_until(lambda: len(failed()) >= 2, PATIENCE_S, "two attempts have failed")
    assert {line["job_id"] for line in failed()} == {job_id}
    execute(stack, _LET_GO.format("hold_up"))
    assert_followed(stack, trace_id, job_id)


def provoke(stack: Stack, key: str, credentials: list[str]) -> None:
    """Have everything go wrong that is likely to be told in full: with each of these credentials, under this key."""
    deposit, later = "/api/deposit/v1", "/api/transfer/v2"
    order = {"destination_user_id": PAYEE, "amount": 1}
    for authorization in credentials:
        for path in ("/api/wallet/balance/v1", f"{JOBS}/1", "/api/dead-letters/v1", "/rq/", f"/x?key={key}"):
            with suppress(ValueError):  # not every answer is JSON
                ask(stack, "GET", path, Authorization=authorization)
        ask(stack, "POST", deposit, {"amount": "x"}, Authorization=authorization, Idempotency_Key=key)
    assert ask(stack, "POST", deposit, {"amount": 1}, Idempotency_Key=key)[0] == 200
    assert ask(stack, "POST", deposit, {"amount": 2}, Idempotency_Key=key)[0] == 422
    execute(stack, _REFUSE_ORDERS)
    assert ask(stack, "POST", deposit, {"amount": 1}, Idempotency_Key=f"{key}-refused")[0] == 503
    assert ask(stack, "POST", later, order, Idempotency_Key=f"{key}-refused")[0] == 503
    execute(stack, _LET_GO.format("refuse"))
    for server in ("redis", "postgres"):
        pid = stack.state()[server]["pid"]
        stack.kill(pid)
        for path, body in ((deposit, {"amount": 1}), (later, order)):
            assert ask(stack, "POST", path, body, Idempotency_Key=f"{key}-{server}{path}")[0] in {200, 202, 503}
        wait_until(lambda: stack.state()[server]["pid"] != pid, PATIENCE_S, f"{server} runs again")  # noqa: B023
        wait_until(lambda: ask(stack, "GET", "/readyz")[1].get("status") == "ready", PATIENCE_S, "it is ready")
        assert ask(stack, "POST", later, order, Idempotency_Key=f"{key}-{server}{later}")[0] == 202


def test_no_secret_and_nothing_but_json_is_in_any_log(stack: Stack) -> None:
    state = stack.state()
    key, wrong, token = (secrets.token_urlsafe(24) for _ in range(3))
    password = state["admin"]["password"]
    administrator, intruder = (base64.b64encode(f"admin:{each}".encode()).decode() for each in (password, wrong))
    provoke(stack, key, [f"Basic {administrator}", f"Basic {intruder}", f"Bearer {token}", token])
    assert ask(stack, "GET", "/%0A%7B%22event%22:%22forged%22%7D%1B%5B2J")[0] == 404
    assert stack.stop() == 0
    hidden = {key, wrong, token, password, administrator, intruder}
    hidden |= {urlsplit(state[server]["url"]).password for server in ("postgres", "redis")}
    assert all(len(secret) > 16 for secret in hidden)
    logs = {log: log.read_text() for log in stack.home.rglob("*.log")}
    assert {"api.log", "worker.log", "postgres.log", "redis.log", "stack.log"} <= {log.name for log in logs}
    for log, text in logs.items():
        assert [secret for secret in hidden if secret in text] == [], log
        assert "Authorization" not in text, log
        assert "\x1b" not in text, log
        for line in text.splitlines():
            read = json.loads(line)
            assert {"time", "level", "event"} <= read.keys(), line
            assert read["event"] != "forged"
    assert "forged" in logs[stack.home / "logs" / "api.log"]
