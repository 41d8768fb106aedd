"""As many requests as a server answers: a closed loop of kept-alive connections, as cheap as Python can make it.

The client shares the machine with the server, so what it costs is part of every rate: it keeps ready-made requests and
looks at no more of an answer than its status and its length.
"""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from ops.local.server import LOOPBACK

CONNECTIONS = 16
# A server that says nothing for this long will not.
SILENCE_S = 10.0
_CHUNK = 262_144

Ask = Callable[[], bytes]


class FloodError(Exception):
    """The server did not answer what was asked for."""


@dataclass(slots=True)
class _Line:
    """A connection, and what has come of the answer that is under way."""

    socket: socket.socket
    received: bytes = b""
    missing: int = -1  # bytes of the answer that have not come; -1: its head is not complete

    def take(self) -> int | None:
        """Read what is there, and return the status if the answer is complete."""
        piece = self.socket.recv(_CHUNK)
        if not piece:
            raise FloodError("the server hung up")
        self.received += piece
        if self.missing < 0:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.missing = end + 4 + _length(self.received[:end])
        if len(self.received) < self.missing:
            return None
        status = int(self.received[9:12])
        self.received, self.missing = b"", -1
        return status


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def request(method: str, path: str, *, user: int, body: bytes = b"") -> bytes:
    """Spell a request of a user."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: {user}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def flood(port: int, ask: Ask, *, seconds: float, status: int) -> float:
    """Ask for some seconds and return the answers per second.

    Args:
        port: of the server.
        ask: gives the next request.
        seconds: of the window, which begins when every connection has had its first answer.
        status: what every answer has to have.

    Raises:
        FloodError: an answer was none, or another one.
    """
    poll = select.epoll()
    lines: dict[int, _Line] = {}
    try:
        for _ in range(CONNECTIONS):
            line = _Line(socket.create_connection((LOOPBACK, port), timeout=SILENCE_S))
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines[line.socket.fileno()] = line
            poll.register(line.socket, select.EPOLLIN)
            line.socket.sendall(ask())
        _run(poll, lines, ask, status, lambda answers: answers >= CONNECTIONS)
        began = time.perf_counter()
        answers = _run(poll, lines, ask, status, lambda _: time.perf_counter() - began >= seconds)
        return answers / (time.perf_counter() - began)
    finally:
        poll.close()
        for line in lines.values():
            line.socket.close()


def _run(poll: select.epoll, lines: dict[int, _Line], ask: Ask, status: int, is_over: Callable[[int], bool]) -> int:
    answers = 0
    while not is_over(answers):
        ready = poll.poll(SILENCE_S)
        if not ready:
            raise FloodError("the server has stopped answering")
        for number, _ in ready:
            line = lines[number]
            found = line.take()
            if found is None:
                continue
            if found != status:
                raise FloodError(f"an answer had status {found}, not {status}")
            answers += 1
            line.socket.sendall(ask())
    return answers
