import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest

from bench.flood import FloodError, flood, is_complete, request

HEAD = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("received", "complete"),
    [(HEAD + b"hello", True), (HEAD + b"hell", False), (HEAD, False), (HEAD[:-2], False), (HEAD[:12], False)],
)
def test_an_answer_is_complete_with_its_last_byte(received: bytes, complete: bool) -> None:
    assert is_complete(received) is complete


def test_the_length_is_found_however_it_is_spelled() -> None:
    assert is_complete(HEAD.lower() + b"hello")
    with pytest.raises(FloodError, match="how long"):
        is_complete(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


class _Answering(socketserver.StreamRequestHandler):
    """Answers whatever comes with five bytes, in two pieces; after :attr:`patience` answers hangs up."""

    patience = 3

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone
            for _ in range(self.patience):
                while self.rfile.readline() not in {b"\r\n", b""}:
                    pass
                self.wfile.write(HEAD)
                self.wfile.write(b"hello")


@pytest.fixture
def port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answering) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_all_answers_are_counted_and_only_those_within_the_window_make_the_rate(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Answering, "patience", 1_000_000)
    sent = count()
    flooded = flood(port, lambda: request("GET", f"/{next(sent)}", user=1), connections=7, seconds=0.2, status=200)
    assert flooded.answers == next(sent)  # every one of them has been answered
    assert 0 < flooded.rate * 0.2 <= flooded.answers - 14  # without each connection's first and last


def test_without_a_window_every_connection_is_asked_until_all_have_answered(port: int) -> None:
    flooded = flood(port, lambda: request("GET", "/", user=1), connections=1, seconds=1e-6, status=200)
    assert (flooded.answers, flooded.rate) == (2, 0.0)


@pytest.mark.parametrize(("status", "told"), [(200, "hung up"), (202, "'HTTP/1.1 200 OK.* not HTTP/1.1 202")])
def test_a_server_that_hangs_up_or_says_something_else_is_told(port: int, status: int, told: str) -> None:
    with pytest.raises(FloodError, match=told):
        flood(port, lambda: request("GET", "/", user=1), connections=2, seconds=10.0, status=status)
