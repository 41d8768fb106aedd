"""One answer to one request, whatever its framing; and what was left unread is not taken for the next request."""

import socket
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine

from tests.api.calls import DEPOSIT, PROBLEM_FIELDS
from tests.api.server import Answer, Gunicorn, gunicorn
from tests.ops.http.flooding import PATIENCE_S, parse

HEAD = f"POST {DEPOSIT} HTTP/1.1\r\nHost: x\r\nAuthorization: 1\r\nContent-Type: application/json\r\n".encode()
BODY = b'{"amount": 67}'
CHUNKS = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
# Taken for a request of its own, this would be answered 404.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, service_database_url: str, redis_url: str) -> Iterator[Gunicorn]:
    log = tmp_path_factory.mktemp("gunicorn") / "api.log"
    with gunicorn(log, DATABASE_URL=service_database_url, REDIS_URL=redis_url, API_PROCESSES="1") as server:
        yield server


@pytest.fixture
def server(running: Gunicorn, engine: Engine, redis_client: redis.Redis) -> Gunicorn:
    del engine, redis_client  # asked for to be emptied
    return running


def answers_to(server: Gunicorn, request: bytes) -> list[Answer]:
    """Send this, say nothing more, and return all answers until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as line:
        line.sendall(request)
        received = b""
        while piece := line.recv(65_536):
            received += piece
    answers: list[Answer] = []
    while received:
        answer = parse(received)
        assert answer is not None, received
        answers.append(answer)
        received = received.partition(b"\r\n\r\n")[2][len(answer.body) :]
    return answers


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        pytest.param(b"Content-Length: 70000\r\n\r\n", 413, id="a large body that does not come"),
        pytest.param(b"Content-Length: 70000\r\n\r\n" + SMUGGLED, 413, id="a large body, something else comes"),
        pytest.param(b"Content-Length: 70000\r\n\r\n" + BODY.ljust(70_000), 413, id="a large body"),
        pytest.param(b"Content-Length: 4000000\r\n\r\n" + b" " * 1_000_000, 413, id="part of a very large body"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b" " * 0x20000 + b"\r\n0\r\n\r\n", 413, id="large chunks"
        ),
        pytest.param(b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, 400, id="a coding that nobody undoes"),
        pytest.param(b"Transfer-Encoding: gzip\r\n\r\n" + BODY, 400, id="not chunked at last"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 14\r\n\r\n" + CHUNKS, 400, id="two framings"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED, 400, id="a size that is none"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n" + SMUGGLED, 400, id="a chunk that is too long"),
    ],
)
def test_a_body_that_is_left_unread_ends_the_connection_after_one_answer(
    server: Gunicorn, framing: bytes, status: int
) -> None:
    (answer,) = answers_to(server, HEAD + framing)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.json.keys() == PROBLEM_FIELDS


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.9", b"GET / HTTP/2.0", b"hello", b"GET /" + b"a" * 5_000 + b" HTTP/1.1"], ids=repr
)
def test_what_cannot_be_read_is_answered_once_and_at_once(server: Gunicorn, line: bytes) -> None:
    (answer,) = answers_to(server, line[:200] + line[200:] + b"\r\n\r\n" + SMUGGLED)
    assert (answer.status, answer.json["code"]) == (400, "bad_input")


@pytest.mark.parametrize("last", [b"Connection: close\r\n", b"Connection: close\r\nExpect: 100-continue\r\n"])
def test_requests_that_are_sent_ahead_are_answered_one_after_the_other(server: Gunicorn, last: bytes) -> None:
    lengths = b"Content-Length: 14\r\n"
    requests = [HEAD + lengths + b"\r\n" + BODY, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS]
    answers = answers_to(server, b"".join(requests) + HEAD + lengths + last + b"\r\n" + BODY)
    answers = [answer for answer in answers if answer.status != 100]
    assert [answer.json["balance"] for answer in answers] == [67, 134, 201]


def test_a_body_that_the_application_does_not_read_is_not_taken_for_a_request(server: Gunicorn) -> None:
    unread = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    answers = answers_to(server, unread + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [answer.status for answer in answers] == [404, 200]
