"""As many requests as a server answers: a closed loop of kept-alive connections, as cheap as Python can make it.

The client shares the machine with the server, so what it costs is part of every rate: it keeps ready-made requests,
never waits for a socket but in one ``epoll`` for all, and looks at no more of an answer than its status and its length.
"""

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from ops.local.server import LOOPBACK

# A server that says nothing for this long will not.
SILENCE_S = 10.0
# More than any answer. Not more than what malloc has at hand: a larger piece would be mapped anew for each answer.
_CHUNK = 65_536
_LENGTH, _END = b"\r\nContent-Length: ", b"\r\n\r\n"

Ask = Callable[[], bytes]


class FloodError(Exception):
    """The server did not answer what was asked for."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """What came of a window: its answers a second, and how many there were in all, before and after it included."""

    rate: float
    answers: int


def flood(port: int, ask: Ask, *, connections: int, seconds: float, status: int) -> Flooded:
    """Ask on new connections for some seconds, then wait until all that is under way is answered.

    The window begins when every connection has had its first answer. They are new ones each time: how a server's
    processes share them differs from one time to the next, and no kind of request is to keep a bad lot.

    Args:
        port: of the server.
        ask: gives the next request.
        connections: at a time, each with one request under way.
        seconds: of the window.
        status: what every answer has to have.

    Raises:
        FloodError: an answer was none, or another one.
    """
    with ExitStack() as stack:
        crowd = _Crowd(stack, port, connections, status)
        silent = {line.number for line in crowd.lines.values()}
        for line in crowd.lines.values():
            line.send(ask())
        answers = 0
        while silent:
            for line in crowd.answered():
                silent.discard(line.number)
                line.send(ask())
                answers += 1
        counted, began = 0, time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            for line in crowd.answered():
                line.send(ask())
                counted += 1
        open_requests = connections
        while open_requests:
            open_requests -= len(crowd.answered())
        return Flooded(rate=counted / (now - began), answers=answers + counted + connections)


def request(method: str, path: str, *, user: int, body: bytes = b"") -> bytes:
    """Spell a request of a user."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: {user}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def is_complete(received: bytes) -> bool:
    """Tell whether this is the whole of an answer.

    Raises:
        FloodError: it does not say how long it is.
    """
    end = received.find(_END)
    if end < 0:
        return False
    found = received.find(_LENGTH, 0, end)
    if found < 0:  # spelled otherwise, or not at all
        found = received[:end].lower().find(_LENGTH.lower())
        if found < 0:
            raise FloodError("an answer does not say how long it is")
    length = received[found + len(_LENGTH) : received.find(b"\r", found + len(_LENGTH))]
    return len(received) >= end + len(_END) + int(length)


class _Line:
    """A connection, and what has come of the answer that is under way."""

    __slots__ = ("number", "received", "recv", "send")

    def __init__(self, connection: socket.socket) -> None:
        self.number = connection.fileno()
        self.recv, self.send = connection.recv, connection.send
        self.received = b""


class _Crowd:
    """All connections, and one way to wait for them."""

    def __init__(self, stack: ExitStack, port: int, connections: int, status: int) -> None:
        self.lines: dict[int, _Line] = {}
        self._begins = b"HTTP/1.1 %d " % status
        self._poll = stack.enter_context(select.epoll())
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=SILENCE_S))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # With a timeout Python would ask the kernel before each of its calls whether it may make it. Requests are
            # short and answered before the next one, so that there is always room to send.
            connection.setblocking(False)
            self._poll.register(connection, select.EPOLLIN)
            self.lines[connection.fileno()] = _Line(connection)

    def answered(self) -> list[_Line]:
        """Wait until something comes, and return those whose answer is complete.

        Raises:
            FloodError: nothing comes, or something else than was asked for.
        """
        ready = self._poll.poll(SILENCE_S)
        if not ready:
            raise FloodError("the server has stopped answering")
        done = []
        for number, _ in ready:
            line = self.lines[number]
            piece = line.recv(_CHUNK)
            if not piece:
                raise FloodError("the server hung up")
            received = line.received + piece if line.received else piece
            if not is_complete(received):
                line.received = received
                continue
            line.received = b""
            if not received.startswith(self._begins):
                raise FloodError(f"an answer was {received[:1_000]!r}, not {self._begins.decode().strip()}")
            done.append(line)
        return done
