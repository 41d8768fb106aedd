"""X-Request-ID and traceparent are taken over when well-formed, made up when not, answered and logged."""

import io
import logging
import re
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.api.calls import BALANCE, MOVES, TRANSFER_LATER, accept, ask, get, problem

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def test_a_traceparent_is_carried_on_with_a_span_of_its_own(client: FlaskClient) -> None:
    answered = ask(client, "GET", BALANCE, headers={"traceparent": PARENT}).headers["traceparent"]
    found = _TRACEPARENT.fullmatch(answered)
    assert found
    assert found[1] == TRACE_ID
    assert found[2] != "b7ad6b7169203331"
    assert answered.endswith("-01")


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "x",
        TRACE_ID,
        PARENT.upper(),
        PARENT + "-x",
        PARENT[:-1],
        f"ff-{TRACE_ID}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[:-1]}g-b7ad6b7169203331-01",
    ],
)
def test_a_malformed_traceparent_is_replaced(client: FlaskClient, malformed: str) -> None:
    answered = ask(client, "GET", BALANCE, headers={"traceparent": malformed}).headers["traceparent"]
    found = _TRACEPARENT.fullmatch(answered)
    assert found
    assert found[1] != TRACE_ID


def test_without_a_traceparent_every_request_has_a_trace_of_its_own(client: FlaskClient) -> None:
    traces = {get(client, "/healthz").headers["traceparent"].split("-")[1] for _ in range(3)}
    assert len(traces) == 3


@pytest.mark.parametrize("request_id", ["1", "a-b.c:d/e+f=g@h_i", "x" * 128])
def test_a_request_id_is_answered(client: FlaskClient, request_id: str) -> None:
    assert ask(client, "GET", BALANCE, headers={"X-Request-ID": request_id}).headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("malformed", ["", " ", "a b", "x" * 129, "\xe9", '"', "<script>", "a\tb", "{}"])
def test_a_malformed_request_id_is_replaced(client: FlaskClient, malformed: str) -> None:
    answered = ask(client, "GET", BALANCE, headers={"X-Request-ID": malformed}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", answered)


def test_a_problem_has_the_trace_id_of_its_request(client: FlaskClient) -> None:
    response = ask(client, "GET", "/nothing", headers={"traceparent": PARENT})
    assert problem(response, "not_found")["trace_id"] == TRACE_ID


def test_a_transfer_remembers_the_trace_it_came_from(funded: FlaskClient, engine: Engine) -> None:
    ask(funded, "POST", TRANSFER_LATER, body=MOVES[TRANSFER_LATER], headers={"traceparent": PARENT})
    with engine.connect() as connection:
        traces = connection.execute(text("SELECT trace FROM transfers WHERE status = 'pending'")).scalars().all()
    assert [trace.split("-")[1] for trace in traces] == [TRACE_ID]


@pytest.mark.parametrize("path", [*MOVES, BALANCE, "/healthz", "/readyz", "/nothing"])
def test_every_answer_carries_trace_and_security_headers(funded: FlaskClient, path: str) -> None:
    for response in (get(funded, path), ask(funded, "POST", path, body=MOVES.get(path, {}), user=None)):
        assert _TRACEPARENT.fullmatch(response.headers["traceparent"])
        assert response.headers["X-Request-ID"]
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def access_lines(client: FlaskClient, method: str, path: str, **options: Any) -> list[Any]:
    """Return the access log of one request."""
    written, root = io.TextIOWrapper(io.BytesIO()), logging.getLogger()
    level = root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", written)
        root.setLevel(logging.DEBUG)
        try:
            ask(client, method, path, **options)
        finally:
            root.setLevel(level)
    lines = [orjson.loads(line) for line in written.buffer.getvalue().splitlines()]
    return [line for line in lines if line["event"] == "request"]


def test_a_request_is_one_log_line_with_its_facts(funded: FlaskClient) -> None:
    job_id = accept(funded)
    lines = access_lines(
        funded, "GET", f"/api/jobs/v1/{job_id}?wait=0", headers={"traceparent": PARENT, "X-Request-ID": "r1"}
    )
    assert len(lines) == 1
    line = lines[0]
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    line.pop("service")
    assert line == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "path": f"/api/jobs/v1/{job_id}",
        "route": "/api/jobs/v1/<job_id>",
        "status": 200,
        "user_id": "1",
        "trace_id": TRACE_ID,
        "request_id": "r1",
    }


def test_one_requests_user_is_not_in_the_next_ones_line(funded: FlaskClient) -> None:
    get(funded, BALANCE)
    assert "user_id" not in access_lines(funded, "GET", BALANCE, user=None)[0]


@pytest.mark.parametrize(("path", "level"), [("/healthz", "debug"), ("/readyz", "debug"), ("/healthz?x=1", "info")])
def test_probes_that_succeed_are_quiet(client: FlaskClient, path: str, level: str) -> None:
    assert access_lines(client, "GET", path, user=None)[0]["level"] == level


def test_a_request_that_fits_no_route_is_logged_too(client: FlaskClient) -> None:
    line = access_lines(client, "DELETE", BALANCE)[0]
    assert (line["status"], line["route"]) == (405, None)
