"""What a test client cannot show: chunks, threads, what the server itself answers, and what it writes to its log."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MOVES,
    PROBLEM_FIELDS,
    STATUS_OF,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    basic,
)
from tests.api.server import Answer, Gunicorn, encode, gunicorn, json_of
from tests.api.waiters import wait_for
from tests.conftest import ADMIN_PASSWORD, Books
from tests.proxy import TcpProxy

pytestmark = pytest.mark.xdist_group("gunicorn")

IN_HAND = 4
WAITERS = 3 * IN_HAND
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def postgres(service_database_url: str) -> Iterator[TcpProxy]:
    """What stands between the server and PostgreSQL."""
    with TcpProxy.before(service_database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, postgres: TcpProxy, redis_url: str) -> Iterator[Gunicorn]:
    """One server for the whole module, with little in hand."""
    with gunicorn(
        tmp_path_factory.mktemp("gunicorn") / "api.log",
        DATABASE_URL=postgres.url,
        REDIS_URL=redis_url,
        ADMIN_PASSWORD=ADMIN_PASSWORD,
        API_PROCESSES="1",
        API_QUEUE=str(IN_HAND),
        LOG_LEVEL="DEBUG",
    ) as server:
        yield server


@pytest.fixture
def server(running: Gunicorn, engine: Engine, redis_client: redis.Redis) -> Gunicorn:
    """The server, with empty tables but for users 1 and 2, who have 10000 cents each."""
    del engine, redis_client
    for user in (1, 2):
        assert running.move(DEPOSIT, {"amount": 10_000}, user=user).status == 200
    return running


def assert_problem(answer: Answer, code: str) -> None:
    """Check a problem against the contract."""
    assert (answer.status, answer.json["code"]) == (STATUS_OF[code], code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json.keys() == PROBLEM_FIELDS
    assert answer.json["trace_id"] == answer.headers["traceparent"].split("-")[1]


def test_every_call_works_over_a_real_connection(server: Gunicorn) -> None:
    for path, body in MOVES.items():
        answer = server.move(path, body)
        assert answer.status == (202 if path == TRANSFER_LATER else 200), answer
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        job_id = answer.json.get("job_id", answer.json.get("transfer_id"))
        assert server.get(f"{JOBS}/{job_id}").json["job_id"] == job_id
    assert server.get(BALANCE).json == {"balance": 9_933}  # 10000 + 67 - 67 - 67
    assert server.get(HISTORY).status == 200


@pytest.mark.parametrize("path", MOVES)
def test_a_chunked_body_is_read(server: Gunicorn, path: str) -> None:
    whole = encode(MOVES[path])
    answer = server.ask("POST", path, headers=json_of(1), body=iter([whole[:5], whole[5:]]))
    assert answer.status in {200, 202}


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize("length", [16_385, 30_000])
def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(
    server: Gunicorn, books: Callable[[], Books], path: str, length: int
) -> None:
    before = books()
    # Cut off at the limit, this would be a perfect request.
    body = encode(MOVES[path]).ljust(length)
    assert_problem(server.ask("POST", path, headers=json_of(1), body=body), "payload_too_large")
    pieces = iter([body[:1_000], body[1_000:]])
    assert_problem(server.ask("POST", path, headers=json_of(1), body=pieces), "payload_too_large")
    assert books() == before


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_megabytes_does_no_harm(server: Gunicorn, books: Callable[[], Books], chunked: bool) -> None:
    before = books()
    body = encode(MOVES[DEPOSIT]).ljust(4_000_000)
    # The server may hang up on whoever goes on sending, who then never sees the answer.
    with suppress(ConnectionError):
        sent = iter([body]) if chunked else body
        assert_problem(server.ask("POST", DEPOSIT, headers=json_of(1), body=sent), "payload_too_large")
    assert server.get(BALANCE).status == 200
    assert books() == before


def test_a_chunked_body_of_the_largest_size_is_read(server: Gunicorn) -> None:
    body = encode(MOVES[DEPOSIT]).ljust(16_384)
    assert server.ask("POST", DEPOSIT, headers=json_of(1), body=iter([body[:100], body[100:]])).status == 200


BROKEN = {
    "no body at all": b"\r\n",
    "a body cut short": b'Content-Length: 99\r\n\r\n{"amount": 67}',
    "a length that is none": b'Content-Length: 1x\r\n\r\n{"amount": 67}',
    "a negative length": b'Content-Length: -1\r\n\r\n{"amount": 67}',
    "two lengths": b'Content-Length: 14\r\nContent-Length: 13\r\n\r\n{"amount": 67}',
    "length and chunks": b'Content-Length: 14\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{"amount": 67}\r\n0\r\n\r\n',
    "a chunk's size that is none": b'Transfer-Encoding: chunked\r\n\r\nzz\r\n{"amount": 67}\r\n0\r\n\r\n',
    "a chunk cut short": b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"amount": 67}',
    "a chunk without its end": b'Transfer-Encoding: chunked\r\n\r\ne\r\n{"amount": 67}xx0\r\n\r\n',
    "an unknown coding": b'Transfer-Encoding: gzip\r\n\r\n{"amount": 67}',
    "NUL in a header": b'Idempotency-Key: \x00\r\nContent-Length: 14\r\n\r\n{"amount": 67}',
    "a header that is too long": b"Idempotency-Key: " + b"k" * 9_000 + b'\r\nContent-Length: 14\r\n\r\n{"amount": 67}',
    "too many headers": b"A: b\r\n" * 100 + b'Content-Length: 14\r\n\r\n{"amount": 67}',
    "a folded header": b'Idempotency-Key: a\r\n b\r\nContent-Length: 14\r\n\r\n{"amount": 67}',
}


@pytest.mark.parametrize("request_tail", BROKEN.values(), ids=BROKEN)
def test_a_broken_request_is_refused_and_moves_nothing(
    server: Gunicorn, books: Callable[[], Books], request_tail: bytes
) -> None:
    before = books()
    head = b"POST /api/deposit/v1 HTTP/1.1\r\nHost: x\r\nAuthorization: 1\r\nContent-Type: application/json\r\n"
    answered = server.send_raw(head + b"Connection: close\r\n" + request_tail)
    assert answered[9:10] == b"4", answered
    assert re.search(rb"\r\nX-Request-ID: \S", answered, re.IGNORECASE), answered
    assert re.search(rb"\r\ntraceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\r\n", answered, re.IGNORECASE), answered
    assert books() == before
    assert server.get("/healthz").status == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"hello",
        b"GET",
        b"get / HTTP/1.1",
        b"GET / HTTP/9.9",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /" + b"a" * 5_000 + b" HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /%ff HTTP/1.1",
        b"GET //a//b HTTP/1.1",
        b"GET http://[/ HTTP/1.1",
        b"GET /api/jobs/v1/%00 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01\x02\x00\x01\x00",  # someone speaks TLS
    ],
)
def test_a_strange_request_line_is_the_clients_mistake(server: Gunicorn, request_line: bytes) -> None:
    answered = server.send_raw(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answered[9:12] in {b"400", b"401", b"404", b"405"}, answered
    assert b"application/problem+json" in answered or request_line.startswith(b"OPTIONS"), answered
    assert server.get("/healthz").status == 200


def test_those_who_wait_for_a_job_are_not_in_hand_and_others_are_served(
    server: Gunicorn, settle: Callable[[str], None]
) -> None:
    job_id = server.move(TRANSFER_LATER, MOVES[TRANSFER_LATER]).json["job_id"]

    def follow() -> Answer:
        # Until it waits it is in hand, and all of them come at once.
        while (answer := server.get(f"{JOBS}/{job_id}?wait=20")).status == 503:
            pass
        return answer

    with ThreadPoolExecutor(WAITERS) as pool:
        waiters = [pool.submit(follow) for _ in range(WAITERS)]
        wait_for(lambda: len(clients_of(server)) == WAITERS)
        wait_for(lambda: [server.get(BALANCE).status for _ in range(10)] == [200] * 10)
        assert server.move(DEPOSIT, {"amount": 1}).status == 200
        assert not any(waiter.done() for waiter in waiters)
        settle(job_id)
        assert [each.result().json["status"] for each in waiters] == ["posted"] * WAITERS


def clients_of(server: Gunicorn) -> set[str]:
    """Return the connections of clients, by the server's ends of them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[2] for line in lines if line[1].endswith(f":{server.port:04X}") and line[3] == "01"}


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Read log lines, every one of which must be a JSON object."""
    return [json.loads(line) for line in lines]


def log_of(server: Gunicorn, request_id: str, event: str) -> dict[str, Any]:
    """Wait for the log line of a request."""

    def found() -> list[dict[str, Any]]:
        return [
            each for each in parsed(server.lines()) if each.get("request_id") == request_id and each["event"] == event
        ]

    wait_for(lambda: bool(found()))
    assert len(found()) == 1
    return found()[0]


def test_a_request_is_one_json_line_with_its_facts(server: Gunicorn) -> None:
    headers = {"X-Request-ID": "facts", "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    answer = server.move(TRANSFER, MOVES[TRANSFER], headers=headers)
    assert answer.headers["x-request-id"] == "facts"
    line = log_of(server, "facts", "request")
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "service": "api",
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": TRANSFER,
        "route": TRANSFER,
        "status": 200,
        "user_id": "1",
        "request_id": "facts",
        "trace_id": TRACE_ID,
    }


def test_the_trace_id_of_a_problem_is_in_the_log(server: Gunicorn) -> None:
    answer = server.move(WITHDRAW, {"amount": 10_001}, headers={"X-Request-ID": "problem"})
    assert_problem(answer, "balance_insufficient")
    assert log_of(server, "problem", "request")["trace_id"] == answer.json["trace_id"]


def test_without_postgresql_the_log_says_why_and_the_service_recovers(server: Gunicorn, postgres: TcpProxy) -> None:
    postgres.refuse()
    try:
        answer = server.move(DEPOSIT, {"amount": 1}, headers={"X-Request-ID": "no-database"})
        assert_problem(answer, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert (server.get("/readyz").status, server.get("/healthz").status) == (503, 200)
    finally:
        postgres.refuse(refusing=False)
    line = log_of(server, "no-database", "unavailable")
    assert (line["level"], line["trace_id"]) == ("error", answer.json["trace_id"])
    assert line["cause"]
    assert server.get("/readyz").status == 200


def test_what_the_server_itself_logs_is_not_put_down_to_the_last_user(server: Gunicorn) -> None:
    for _ in range(2 * IN_HAND):
        assert server.get(BALANCE).status == 200
    assert server.send_raw(b"stray\r\n\r\n").startswith(b"HTTP/1.1 400")

    def strays() -> list[dict[str, Any]]:
        return [each for each in parsed(server.lines()) if each["event"] == "unreadable request"]

    wait_for(lambda: bool(strays()))
    assert all(each.keys().isdisjoint({"user_id", "request_id"}) for each in strays())


def test_no_secret_is_in_any_output(server: Gunicorn, postgres: TcpProxy, redis_url: str) -> None:
    secrets = {"idempotency": "a-very-secret-key", "wrong": "a-wrong-password", "token": "a-bearer-token"}
    for path, body in MOVES.items():
        assert server.move(path, body, headers={"Idempotency-Key": secrets["idempotency"] + path}).status in {200, 202}
    server.move(DEPOSIT, {"amount": 1, "x": 1}, headers={"Idempotency-Key": secrets["idempotency"]})
    postgres.refuse()
    server.move(DEPOSIT, {"amount": 1}, headers={"Idempotency-Key": secrets["idempotency"]})
    postgres.refuse(refusing=False)
    for credentials in (ADMIN, basic("admin", secrets["wrong"]), f"Bearer {secrets['token']}"):
        server.get(f"{JOBS}/1", user=credentials)
        server.get(BALANCE, user=credentials)
    server.send_raw(b"POST / HTTP/1.1\r\nAuthorization: " + ADMIN.encode() + b"\r\nIdempotency-Key: \x00" + b"\r\n\r\n")
    server.get(BALANCE + "?password=" + secrets["wrong"])
    server.get("/healthz", user="last")  # not of any user: it comes after all of the others
    passwords = [url.rpartition("@")[0].rpartition(":")[2] for url in (postgres.url, redis_url)]
    assert all(len(password) > 8 for password in passwords)
    log_of_all = "\n".join(server.lines())
    assert server.get(BALANCE).status == 200
    for secret in (*secrets.values(), *passwords, ADMIN_PASSWORD, ADMIN.removeprefix("Basic ")):
        assert secret not in log_of_all
    assert "Authorization" not in log_of_all


def test_every_line_is_json_with_a_time_a_level_and_a_service(server: Gunicorn) -> None:
    lines = parsed(server.lines())
    assert any(line.get("logger") == "gunicorn.error" for line in lines)
    for line in lines:
        assert {"time", "level", "event", "service"} <= line.keys()
        assert line["service"] == "api"


def test_with_a_wrong_setting_the_server_does_not_start(tmp_path: Path, database_url: str) -> None:
    log = tmp_path / "api.log"
    with gunicorn(log, DATABASE_URL=database_url, REDIS_URL="nonsense"):
        wait_for(lambda: b"\n" in log.read_bytes())
    assert log.read_text() == (
        "configuration error: REDIS_URL: must be a URL that begins with redis://, rediss:// or unix://\n"
    )


@pytest.fixture
def long_history(server: Gunicorn, engine: Engine) -> int:
    """User 1 has 6,000 entries: of a statement, three slices."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM entries WHERE wallet_id = 1"))
        connection.execute(text("UPDATE wallets SET balance = 6000, version = 6000 WHERE id = 1"))
        connection.execute(
            text(
                "INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)"
                " SELECT 1, n, n, 1, 1, n FROM generate_series(1, 6000) AS n"
            )
        )
    del server
    return 6_000


def test_a_statement_is_sent_in_chunks(server: Gunicorn, long_history: int) -> None:
    sent = server.get(_statement())
    assert sent.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in sent.headers
    assert len(sent.json["transactions"]) == long_history


def test_a_statement_that_breaks_off_is_known_for_a_part(server: Gunicorn, engine: Engine, long_history: int) -> None:
    """An entry of the last slice has left: the last chunk never comes."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM entries WHERE wallet_id = 1 AND seq = 5001"))
    with pytest.raises(IncompleteRead) as broken:
        server.get(_statement())
    assert b'"1-3000"' in broken.value.partial
    assert b'"1-%d"' % long_history not in broken.value.partial
    assert any("a statement is broken off" in line for line in server.lines())
    assert server.get(BALANCE).status == 200


def _statement() -> str:
    today = datetime.now(UTC).date()
    return f"/api/statements/v1?from={today - timedelta(days=1)}&to={today + timedelta(days=1)}"
