"""Callers who say nothing, or what is no call: others are answered, and what is held for them stays bounded."""

import resource
import socket
import sys
from contextlib import ExitStack, suppress

import grpc
import pytest
from sqlalchemy import Engine

from ops.grpc.server import GREETING_S, MOST_CONNECTIONS, MOST_METADATA_BYTES, REFLECTING
from ops.local.processes import wait_for
from tests.api.grpc.server import TIMEOUT_S, connect, fund
from tests.models.ledger.ordering import count_transfers
from tests.nursery import run
from tests.ops.grpc.http2 import END_HEADERS, HEADERS, PREFACE, SETTINGS, Line, frame, head, message, status_in
from tests.ops.grpc.serving import Serve, Served
from tests.project import ROOT
from wallet.v1.wallet_pb2 import AmountRequest

CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CANCELLED = grpc.StatusCode.CANCELLED.value[0]
# What a process may grow by whatever is done to it here. It has 110 MB, and 13 KB more for each connection.
GROWTH_MB = 60


@pytest.fixture
def served(serve: Serve) -> Served:
    """A process; user 1 has 10000 cents."""
    served = serve()
    fund(served.server, 1)
    return served


def is_well(served: Served) -> bool:
    """Whether it answers somebody who comes anew."""
    with connect(served.server.port) as channel:
        return served.server.ask("GetBalance", channel=channel).code is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Deposit", "GetBalance", "WatchJob", CHECK, HEALTH_WATCH])
def test_heads_without_a_message_hold_nobody_up_and_are_cancelled(served: Served, method: str) -> None:
    with Line(served.server.port) as line:
        silent = [line.begin(method) for _ in range(200)]
        assert wait_for(lambda: is_well(served), TIMEOUT_S)
        ended = line.ends(*silent)
    assert {status_in(ended[stream]) for stream in silent} == {CANCELLED}
    assert wait_for(lambda: is_well(served), TIMEOUT_S)


def test_reflection_streams_that_ask_nothing_leave_reflection_to_others(served: Served) -> None:
    with Line(served.server.port) as line:
        silent = [line.begin(REFLECTION) for _ in range(2 * REFLECTING)]
        assert is_well(served)
        assert wait_for(lambda: is_reflected(served), TIMEOUT_S)
        line.ends(*silent)


def is_reflected(served: Served) -> bool:
    with Line(served.server.port) as line:
        stream = line.ask(REFLECTION, b"\x3a\x01*")  # list_services
        return status_in(line.ends(stream)[stream]) == 0


@pytest.mark.parametrize("method", ["Deposit", "WatchJob", CHECK])
def test_a_message_that_stays_half_is_not_waited_for(served: Served, method: str) -> None:
    with Line(served.server.port) as line:
        half = [line.begin(method) for _ in range(100)]
        for stream in half:
            line.say(frame(0, 0, stream, message(AmountRequest(amount=1).SerializeToString())[:-1]))
        ended = line.ends(*half)
        assert {status_in(ended[stream]) for stream in half} == {CANCELLED}
    assert wait_for(lambda: is_well(served), TIMEOUT_S)


def test_what_is_no_http2_ends_its_own_connection_and_no_other(served: Served, engine: Engine) -> None:
    head_of_deposit = frame(HEADERS, END_HEADERS, 1, head("Deposit"))
    garbage = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(100_000),
        PREFACE + b"\xff" * 100,
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50),
        PREFACE + frame(SETTINGS, 0, 0, b"") + head_of_deposit + head_of_deposit,
        PREFACE
        + frame(SETTINGS, 0, 0, b"")
        + head_of_deposit
        + b"\xff\xff\xff\x00\x01\x00\x00\x00\x01"
        + bytes(70_000),
    ]
    for said in garbage:
        with (
            socket.create_connection(("127.0.0.1", served.server.port), timeout=TIMEOUT_S) as connection,
            suppress(ConnectionError),
        ):
            connection.sendall(said)
            while connection.recv(65_536):
                pass
        assert is_well(served)
    assert count_transfers(engine) == 1
    assert served.server.process.poll() is None


def test_messages_that_are_too_large_move_nothing(served: Served, engine: Engine) -> None:
    larger, far_larger = (AmountRequest(amount=1, description="x" * size) for size in (16_384, 300_000))
    refused = served.server.ask("Deposit", larger)
    assert (refused.code, refused.error_code) == (grpc.StatusCode.INVALID_ARGUMENT, "payload_too_large")
    # grpcio's own refusal: it does not even read that.
    assert served.server.ask("Deposit", far_larger).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert count_transfers(engine) == 1


def test_metadata_that_is_too_large_is_refused(served: Served, engine: Engine) -> None:
    larger = [(f"x-{number}", "x" * 1_000) for number in range(MOST_METADATA_BYTES // 1_000 + 1)]
    assert served.server.ask("GetBalance", metadata=larger[:8]).code is grpc.StatusCode.OK
    assert served.server.ask("Deposit", AmountRequest(amount=1), metadata=larger).code is (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert is_well(served)
    assert count_transfers(engine) == 1


def test_streams_that_are_opened_and_reset_at_once_are_cheap(served: Served, engine: Engine) -> None:
    before = served.rss_mb
    with Line(served.server.port) as line, suppress(ConnectionError):
        for number in range(20_000):
            line.reset(line.ask("GetBalance") if number % 2 else line.begin("Deposit"))
            if number % 1_000 == 0:
                assert served.server.ask("GetBalance").code in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert wait_for(lambda: is_well(served), TIMEOUT_S)
    assert served.rss_mb - before < GROWTH_MB
    assert count_transfers(engine) == 1


def test_half_messages_of_the_largest_size_on_many_streams_are_not_kept(served: Served) -> None:
    before = served.rss_mb
    with ExitStack() as stack:
        for _ in range(8):
            line = stack.enter_context(Line(served.server.port))
            line.socket.settimeout(1)
            with suppress(ConnectionError, TimeoutError):
                for _ in range(200):
                    stream = line.begin("Deposit")
                    # As much as may be sent unasked, of a message that is announced as far larger.
                    line.say(frame(0, 0, stream, b"\x00" + (250_000).to_bytes(4) + bytes(16_000)))
        assert wait_for(lambda: is_well(served), TIMEOUT_S)
        assert served.rss_mb - before < GROWTH_MB
    assert wait_for(lambda: is_well(served), TIMEOUT_S)


def test_connections_that_say_nothing_are_bounded_and_leave_others_their_place(served: Served) -> None:
    before = served.rss_mb
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.server.port), timeout=TIMEOUT_S))
            for _ in range(MOST_CONNECTIONS + 200)
        ]
        # Who is connected is answered; those beyond are hung up on at once, the others when they have had their time.
        assert served.server.ask("GetBalance").message.balance == 10_000
        assert served.rss_mb - before < GROWTH_MB
        assert wait_for(lambda: len([each for each in silent if has_ended(each)]) > 150, GREETING_S / 2)
        while silent[0].recv(65_536):
            pass
        assert wait_for(lambda: is_well(served), TIMEOUT_S)


def has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"P", PREFACE, PREFACE + frame(SETTINGS, 0, 0, b"")])
def test_who_does_not_go_on_with_a_greeting_is_hung_up_on(served: Served, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=GREETING_S * 3) as connection:
        connection.sendall(said)
        while connection.recv(65_536):
            pass
    assert is_well(served)


def test_without_descriptors_it_goes_on_once_there_are_some_again(served: Served) -> None:
    _, most = resource.prlimit(served.server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.server.process.pid, resource.RLIMIT_NOFILE, (128, most))
    with ExitStack() as stack:
        for _ in range(200):
            with suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", served.server.port), timeout=TIMEOUT_S))
        # Who is connected is answered still.
        assert served.server.ask("GetBalance").message.balance == 10_000
    assert wait_for(lambda: is_well(served), TIMEOUT_S)
    assert served.server.process.poll() is None


_LIMIT = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from ops.grpc.server import MOST_CONNECTIONS
from ops.local.descriptors import allow_connections
allow_connections(MOST_CONNECTIONS)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_there_are_descriptors_for_all_who_may_connect() -> None:
    said = run([sys.executable, "-c", _LIMIT], cwd=ROOT, check=True, text=True)
    soft, hard = map(int, said.stdout.split())
    assert soft >= min(MOST_CONNECTIONS + 200, hard)
