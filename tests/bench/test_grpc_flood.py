import socket
import struct
from collections.abc import Iterator
from itertools import count

import pytest

from bench import grpc_flood
from bench.flood import FloodError
from bench.grpc_flood import Call, call, flood
from tests.bench.echo import SAY, THREADS, Echo, serving

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HELLO = call(SAY, user=1, message=b"hello")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[int]:
    with serving(echo) as found:
        yield found


def test_every_call_is_another_and_only_those_within_the_window_make_the_rate(echo: Echo, port: int) -> None:
    sent = count()

    def ask() -> Call:
        number = next(sent)
        return call(SAY, user=number, message=b"%d" % number)

    flooded = flood(port, ask, connections=3, streams=2, seconds=0.2)
    assert flooded.answers == next(sent) == len(echo.heard)  # every one of them has been answered
    assert sorted(echo.heard) == sorted((str(number), b"%d" % number) for number in range(flooded.answers))
    assert 0 < flooded.rate * 0.2 <= flooded.answers - 3 - 6  # without each connection's first, each stream's last
    assert len(echo.peers) == 3


def test_so_many_calls_are_under_way_on_so_many_connections(echo: Echo, port: int) -> None:
    echo.expected = THREADS
    flood(port, lambda: HELLO, connections=THREADS // 4, streams=4, seconds=0.1)
    assert (echo.most_in_hand, len(echo.peers)) == (THREADS, THREADS // 4)


def test_many_more_calls_than_the_server_has_threads_are_all_answered(echo: Echo, port: int) -> None:
    flooded = flood(port, lambda: HELLO, connections=2, streams=100, seconds=0.1)
    assert flooded.answers == len(echo.heard) >= 200 + 2


def test_no_answer_waits_for_the_client_to_allow_it(echo: Echo, port: int) -> None:
    # Each way, far more than HTTP/2 lets anybody send without being allowed to (64 KiB on a connection).
    letter = call(SAY, user=1, message=bytes(9_000))
    flooded = flood(port, lambda: letter, connections=1, streams=4, seconds=0.5)
    assert flooded.answers > 8
    assert {len(message) for _, message in echo.heard} == {9_000}


def test_a_connection_without_ids_is_followed_by_a_new_one(
    echo: Echo, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_flood, "LAST_STREAM", 2 * 7 - 1)
    flooded = flood(port, lambda: HELLO, connections=2, streams=3, seconds=0.3)
    assert flooded.answers == len(echo.heard)
    assert len(echo.peers) >= flooded.answers / 7 > 2  # seven calls on each


@pytest.mark.parametrize("refuses_after", [0, 40])
def test_an_error_is_told_and_counts_as_no_answer(echo: Echo, port: int, refuses_after: int) -> None:
    echo.refuses_after = refuses_after
    with pytest.raises(FloodError, match=r"a call failed: .*no more"):
        flood(port, lambda: HELLO, connections=2, streams=4, seconds=10.0)


def test_a_method_that_does_not_exist_is_told(port: int) -> None:
    with pytest.raises(FloodError, match="a call failed"):
        flood(port, lambda: call("/test.Echo/None", user=1, message=b""), connections=1, streams=1, seconds=10.0)


def test_a_server_that_falls_silent_is_told(echo: Echo, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_flood, "SILENCE_S", 0.5)
    echo.silent_after = 20
    with pytest.raises(FloodError, match="stopped answering"):
        flood(port, lambda: HELLO, connections=2, streams=4, seconds=10.0)


def test_a_server_that_takes_leave_is_told(echo: Echo) -> None:
    with (
        serving(echo, ("grpc.max_connection_age_ms", 50)) as port,
        pytest.raises(FloodError, match="took leave with error 0: b'max_age'"),
    ):
        flood(port, lambda: HELLO, connections=1, streams=1, seconds=10.0)


class _Server:
    """The other end of a line, which says what it is told to say."""

    def __init__(self) -> None:
        ours, self._socket = socket.socketpair()
        self._ours = ours
        self.line = grpc_flood._Line(ours)
        self.line.ask(lambda: HELLO, 2)
        self._socket.recv(65_536)

    def say(self, *frames: bytes) -> int:
        """Say it a byte at a time, and return how many calls the client takes to be answered."""
        ended = 0
        for byte in b"".join(frames):
            self._socket.send(bytes([byte]))
            ended += self.line.hear()
        return ended

    def hear(self) -> bytes:
        return self._socket.recv(65_536)

    def close(self) -> None:
        self._socket.close()
        self._ours.close()


@pytest.fixture
def server() -> Iterator[_Server]:
    made = _Server()
    yield made
    made.close()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def test_a_call_has_succeeded_when_trailers_end_it_after_a_message(server: _Server) -> None:
    answer = [frame(HEADERS, END_HEADERS, 3, b"abc"), frame(DATA, 0, 3, b"message")]
    assert server.say(*answer) == 0
    assert server.line.open == 2
    trailers = [frame(HEADERS, END_STREAM, 3, b"abc"), frame(CONTINUATION, END_HEADERS, 3, b"def")]
    assert server.say(*trailers) == 1
    assert server.line.open == 1
    with pytest.raises(FloodError, match="a call failed: b'status'"):
        server.say(frame(HEADERS, END_STREAM | END_HEADERS, 1, b"status"))


def test_a_ping_and_settings_are_acknowledged(server: _Server) -> None:
    server.say(frame(SETTINGS, 0, 0, bytes(6)), frame(PING, 0, 0, b"12345678"))
    assert server.hear() == frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"12345678")
    server.say(frame(SETTINGS, ACK, 0), frame(PING, ACK, 0, b"12345678"), frame(PING, 0, 0, b"abcdefgh"))
    assert server.hear() == frame(PING, ACK, 0, b"abcdefgh")


def test_a_call_that_is_reset_has_failed_even_after_its_message(server: _Server) -> None:
    with pytest.raises(FloodError, match="reset with error 7"):
        server.say(frame(DATA, 0, 1, b"message"), frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))


def test_leave_is_told_with_its_reason(server: _Server) -> None:
    with pytest.raises(FloodError, match="leave with error 11: b'too many'"):
        server.say(frame(GOAWAY, 0, 0, struct.pack(">II", 3, 11) + b"too many"))


def test_a_server_that_hangs_up_is_told(server: _Server) -> None:
    server._socket.close()
    with pytest.raises(FloodError, match="hung up"):
        server.line.hear()


def test_a_field_that_is_too_long_is_refused() -> None:
    assert call("/" + "p" * 125, user=1, message=b"")
    with pytest.raises(ValueError, match="takes more than a byte"):
        call("/" + "p" * 126, user=1, message=b"")
