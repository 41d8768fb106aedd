"""One answer to one request, whatever its framing; and what was left unread is not taken for the next request."""

import socket
from collections.abc import Callable, Iterator

import pytest
import redis
from sqlalchemy import Engine

from tests.api.calls import PROBLEM_FIELDS
from tests.api.server import Answer, Gunicorn, gunicorn
from tests.conftest import Books
from tests.ops.http.ambiguous import BODY, CHUNKED, CHUNKS, HEAD, HEALTH, REQUESTS
from tests.ops.http.flooding import parse
from tests.patience import PATIENCE_S

# Taken for a request of its own, this would be answered 404.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = HEAD + b"Content-Length: 14\r\n"
LAST = HEALTH + b"Connection: close\r\n\r\n"


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
    "framing",
    [
        pytest.param(b"Content-Length: 70000\r\n\r\n", id="a large body that does not come"),
        pytest.param(b"Content-Length: 70000\r\n\r\n" + SMUGGLED, id="a large body, something else comes"),
        pytest.param(b"Content-Length: 70000\r\n\r\n" + BODY.ljust(70_000), id="a large body"),
        pytest.param(b"Content-Length: 4000000\r\n\r\n" + b" " * 1_000_000, id="part of a very large body"),
        pytest.param(b"Content-Length: 20000\r\n\r\n", id="a body that is a little too large"),
        pytest.param(b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY, id="a length of thirty digits"),
        pytest.param(b"Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n", id="a large body that is offered"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b" " * 0x20000 + b"\r\n0\r\n\r\n", id="large chunks"
        ),
    ],
)
def test_a_body_that_is_left_unread_ends_the_connection_after_one_answer(server: Gunicorn, framing: bytes) -> None:
    (answer,) = answers_to(server, HEAD + framing)
    assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"
    assert answer.json.keys() == PROBLEM_FIELDS


@pytest.mark.parametrize("request_", [pytest.param(each, id=repr(name)) for name, each in REQUESTS])
def test_what_can_be_read_in_two_ways_is_answered_once_and_at_once(
    server: Gunicorn, books: Callable[[], Books], request_: bytes
) -> None:
    before = books()
    (answer,) = answers_to(server, request_ + SMUGGLED)
    assert (answer.status, answer.json["code"]) == (400, "bad_input")
    assert answer.json.keys() == PROBLEM_FIELDS
    assert answer.headers["connection"] == "close"
    assert books() == before


def test_a_key_that_was_sent_twice_is_named_and_moves_nothing(server: Gunicorn, books: Callable[[], Books]) -> None:
    (answer,) = answers_to(server, LENGTH + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n" + BODY)
    assert answer.json["detail"] == "Idempotency-Key must be sent once."
    assert books().transfers == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"\r\n" + HEALTH + b"\r\n", 200, id="an empty line before it"),
        pytest.param(b"GET http://other/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, id="an absolute target"),
        pytest.param(b"M-SEARCH / HTTP/1.1\r\nHost: x\r\n\r\n", 404, id="a method that nobody knows"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", 200, id="a host of IPv6"),
        pytest.param(HEALTH + b"Expect: 100-continue\r\n\r\n", 200, id="nothing to be asked for"),
        pytest.param(
            HEALTH + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", 200, id="HTTP/2 is offered"
        ),
        pytest.param(HEALTH + b"X-Request-ID: a\r\nX-Request-ID: b\r\n\r\n", 200, id="two ids, and so none"),
        pytest.param(HEALTH + b"Accept: a/b\r\nAccept: c/d\r\n\r\n", 200, id="a list in two headers"),
        pytest.param(HEALTH + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 200, id="a body of a GET"),
        pytest.param(HEAD + b"Content-Length:    014  \r\n\r\n" + BODY, 200, id="blanks around a length"),
        pytest.param(CHUNKED + b'\r\n00000000e;a;b=c;d="e;f"\r\n' + CHUNKS[3:], 200, id="nine digits, and extensions"),
        pytest.param(
            CHUNKED + b"\r\n" + CHUNKS[:-2] + b"Idempotency-Key: a\r\n\r\n", 200, id="a trailer, which is no header"
        ),
    ],
)
def test_what_can_be_read_in_one_way_leaves_the_connection_as_it_is(
    server: Gunicorn, request_: bytes, status: int
) -> None:
    answer, last = answers_to(server, request_ + LAST)
    assert (answer.status, last.status) == (status, 200)
    assert answer.headers["connection"] == "keep-alive"


@pytest.mark.parametrize("lines", [b"Connection: x, Close", b"Connection: keep-alive\r\nConnection: close"])
def test_a_connection_is_closed_for_who_asks_for_it(server: Gunicorn, lines: bytes) -> None:
    (answer,) = answers_to(server, HEALTH + lines + b"\r\n\r\n" + SMUGGLED)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


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
