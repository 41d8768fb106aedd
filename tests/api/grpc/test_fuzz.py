"""Whatever is sent, the answer is one of the contract's, what is refused moves nothing, and the process lives."""

import secrets
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.api.calls import ADMIN, MAX_INT64
from tests.api.grpc.conftest import Shared
from tests.api.grpc.raw import call, framed
from tests.api.grpc.refusals import EVERY_CALL, STATUS_OF
from tests.api.grpc.server import KINDS, Answer, GrpcServer, fund
from tests.books import check_books
from tests.conftest import Books
from wallet.v1.wallet_pb2 import AmountRequest

FUZZED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
# Both servers are up, so not even the contract's two kinds of UNAVAILABLE are right.
CODES = {(status, code) for code, status in STATUS_OF.items() if status is not grpc.StatusCode.UNAVAILABLE}
# A job that does not end is watched until the caller has had enough.
PATIENCE_S = 0.5

_methods = st.sampled_from(sorted(KINDS))
_numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 67, 10_000, 2**31, MAX_INT64, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)
)


def varint(number: int) -> bytes:
    """Spell a number as the wire does."""
    spelled = b""
    while number >= 128:
        spelled += bytes([number % 128 + 128])
        number //= 128
    return spelled + bytes([number])


def field(number: int, kind: int, value: int, raw: bytes) -> bytes:
    """Spell one field, of any of the wire's kinds, the two that are none included."""
    head = varint(number << 3 | kind)
    match kind:
        case 0:
            return head + varint(value)
        case 1 | 5:
            size = 8 if kind == 1 else 4
            return head + raw[:size].ljust(size, b"\0")
        case 2:
            return head + varint(len(raw)) + raw
    return head


_field_numbers = st.one_of(st.integers(1, 8), st.integers(0, 2**29 - 1))
_fields = st.builds(
    field, _field_numbers, st.sampled_from([0, 0, 0, 2, 2, 1, 5, 3, 4, 6, 7]), _numbers, st.binary(max_size=40)
)
_good = st.builds(
    lambda amount, to: field(1, 0, to or amount, b"") + (field(2, 0, amount, b"") if to else b""),
    st.integers(1, 20_000),
    st.sampled_from([0, 1, 2, 3]),
)
_messages = st.one_of(
    st.binary(max_size=200),
    st.lists(_fields, max_size=6).map(b"".join),
    st.builds(lambda good, more: good + b"".join(more), _good, st.lists(_fields, max_size=2)),
    _good,
    st.builds(lambda piece, times: piece * times, _fields, st.integers(1, 2_000)).map(lambda raw: raw[:60_000]),
)
_names = st.one_of(
    st.sampled_from(
        [
            "idempotency-key",
            "traceparent",
            "x-request-id",
            "x-forwarded-for",
            "forwarded",
            "x-bin",
            "authorization",
            "user-agent",
            "grpc-x",
        ]
    ),
    st.text("abcxyz0129_.-", min_size=1, max_size=12),
)
_texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
_pairs = st.lists(st.tuples(_names, _texts), max_size=4)
_users = st.one_of(st.sampled_from(["1", "2", "3", ADMIN, "Bearer x"]), _texts)


@pytest.fixture
def fuzzed(shared: Shared) -> GrpcServer:
    """A process that throttles nobody, with users 1 and 2."""
    server = shared(RATE_LIMIT="off", TRUSTED_PROXIES="127.0.0.1")
    fund(server, 1, 2)
    return server


def is_of_the_contract(answer: Answer[Any]) -> bool:
    if answer.code is grpc.StatusCode.OK:
        return answer.error_code is None
    if answer.code is grpc.StatusCode.DEADLINE_EXCEEDED:  # a watch
        return len(answer.messages) == 1
    return (answer.code, answer.error_code) in CODES and answer.messages == []


def spelled(pairs: list[tuple[str, str]]) -> list[tuple[str, str | bytes]]:
    """What has such a name is bytes, by gRPC's rule."""
    return [(name, value.encode() if name.endswith("-bin") else value) for name, value in pairs]


@FUZZED
@given(sent=st.tuples(_methods, _messages, _users, _pairs))
@example(sent=("Deposit", field(1, 0, 5, b""), "1", [("idempotency-key", "k")]))
def test_whatever_is_sent_has_an_answer_of_the_contract(
    fuzzed: GrpcServer, books: Callable[[], Books], sent: tuple[str, bytes, str, list[tuple[str, str]]]
) -> None:
    method, message, user, pairs = sent
    before = books()
    answer = fuzzed.ask(
        method, message, user=user, metadata=spelled(pairs), timeout_s=PATIENCE_S if method == "WatchJob" else 60
    )
    assert is_of_the_contract(answer), answer
    assert answer.messages or books() == before
    assert fuzzed.process.poll() is None


# What HTTP/2 has no objection to, and no client of gRPC would send.
_bytes = st.binary(max_size=200).map(lambda raw: raw.translate(None, b"\r\n\0"))


@FUZZED
@given(
    method=_methods,
    message=st.one_of(_messages.map(framed), st.binary(max_size=100)),
    fields=st.lists(st.tuples(_names.map(str.encode), _bytes), max_size=4),
)
@example(method="Deposit", message=b"", fields=[(b"authorization", b"\xff\xfe-t0k3n")])
def test_whatever_is_sent_by_hand_leaves_the_process_and_the_books_alone(
    fuzzed: GrpcServer, engine: Engine, method: str, message: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    sent = [(b"authorization", b"1"), (b"grpc-timeout", b"500m"), *fields]
    name = secrets.token_hex(8)
    call(fuzzed.port, method, [*sent, (b"x-request-id", name.encode())], message)
    for line in fuzzed.lines():
        if line.get("request_id") == name:
            assert line["code"] not in {"UNKNOWN", "INTERNAL"}, line
    assert fuzzed.process.poll() is None
    check_books(engine)


@FUZZED
@given(raw=st.binary(max_size=400), begins_well=st.booleans())
def test_what_is_no_http_is_hung_up_on(fuzzed: GrpcServer, raw: bytes, begins_well: bool) -> None:
    with socket.create_connection(("127.0.0.1", fuzzed.port), timeout=60) as connection:
        connection.sendall((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if begins_well else b"") + raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(65_536):
                pass
        except ConnectionResetError:
            pass
    assert fuzzed.ask("GetBalance").message is not None


def test_what_callers_do_wrong_is_no_error_of_ours_and_their_bytes_are_in_no_log(fuzzed: GrpcServer) -> None:
    """Of what these are sent by hand, and of all that other tests of this module have sent so far."""
    for method in EVERY_CALL:
        fuzzed.ask(method, b"\xff\xff")
        for name in (b"authorization", b"idempotency-key", b"traceparent", b"x-request-id", b"x"):
            call(fuzzed.port, method, [(name, b"\xff\xfe-s3cret")], framed(b""))
    fuzzed.ask("/grpc.health.v1.Health/Check", b"\xff\xff")
    for timeout in (b"1x", b"", b"-1S", b"9" * 20):  # of which gRPC's core has something to say by itself
        call(fuzzed.port, "GetBalance", [(b"authorization", b"1"), (b"grpc-timeout", timeout)], framed(b""))
    assert fuzzed.ask("Deposit", AmountRequest(amount=1)).message
    assert [line for line in fuzzed.lines() if line["level"] not in {"info", "warning"}] == []
    assert "s3cret" not in fuzzed.log.read_text()
