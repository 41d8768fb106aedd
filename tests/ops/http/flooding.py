"""Many clients at once, each of which asks again as soon as it has been answered."""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.api.calls import Json, decode
from tests.api.server import Answer, encode
from tests.patience import PATIENCE_S

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks; the connection is kept for the next, or not."""

    method: str
    path: str
    user: int
    body: Json | None = None
    keeps: bool = True

    def spell(self) -> bytes:
        """Write it as HTTP."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: x", f"Authorization: {self.user}"]
        body = b"" if self.body is None else encode(self.body)
        if self.body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if not self.keeps:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class _Client:
    socket: socket.socket
    request: Request
    received: bytes = b""
    sent_at: float = 0.0

    def take(self) -> Answer | None:
        """Read what is there, and return the answer if all of it is.

        Raises:
            OSError: the server has hung up before it had answered.
        """
        piece = self.socket.recv(65_536)
        if not piece:
            raise ConnectionError("hung up without an answer")
        self.received += piece
        return parse(self.received)


def parse(received: bytes) -> Answer | None:
    """Return the answer at the beginning of these bytes, None while it is not complete."""
    head, end, rest = received.partition(_HEAD_END)
    if not end:
        return None
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", "0"))
    return Answer(int(status.split()[1]), headers, rest[:length]) if len(rest) >= length else None


@dataclass
class Flood:
    """What came of it."""

    answers: list[tuple[Request, Answer]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    # How many seconds each answer took, and its status.
    durations: list[tuple[float, int]] = field(default_factory=list)

    def note(self, request: Request, answer: Answer, took_s: float) -> None:
        """Remember an answer."""
        self.durations.append((took_s, answer.status))
        self.answers.append((request, answer))
        self.statuses[answer.status] += 1

    def moved(self) -> list[str]:
        """Return the id of each transfer that was answered as done or accepted."""
        moves = [answer.json for request, answer in self.answers if request.method == "POST" and answer.status < 300]
        return [str(each.get("job_id", each.get("transfer_id"))) for each in moves]

    def problems(self, status: int) -> list[tuple[Answer, Json]]:
        """Return the answers with a status, and their bodies."""
        return [(answer, decode(answer.body)) for _, answer in self.answers if answer.status == status]


class Crowd:
    """Clients, each of which asks again as soon as it has been answered."""

    def __init__(self, port: int, requests: Iterator[Request], is_over: Callable[[Flood], bool]) -> None:
        self.done = Flood()
        self._port, self._requests, self._is_over = port, requests, is_over
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}

    def run(self, clients: int) -> Flood:
        """Ask until it is over, and let every request that is then under way be answered."""
        try:
            for _ in range(clients):
                self._connect()
            while self._clients:
                ready = self._poll.poll(PATIENCE_S)
                assert ready, f"no answer to {len(self._clients)} requests; so far {self.done.statuses}"
                for number, _ in ready:
                    self._listen(number, self._clients[number])
        finally:
            self._poll.close()
            for client in self._clients.values():
                client.socket.close()
        return self.done

    def _listen(self, number: int, client: _Client) -> None:
        try:
            answer = client.take()
        except OSError as error:
            self.done.faults.append(f"{client.request}: {error!r}")
            self._end(number)
            return
        if answer is None:
            return
        self.done.note(client.request, answer, time.monotonic() - client.sent_at)
        is_over = self._is_over(self.done)
        if is_over or answer.headers.get("connection") == "close":
            self._end(number)
            if not is_over:
                self._connect()
        else:
            client.request = next(self._requests)
            self._send(client)

    def _send(self, client: _Client) -> None:
        client.received, client.sent_at = b"", time.monotonic()
        try:
            client.socket.sendall(client.request.spell())
        except OSError as error:
            self.done.faults.append(f"while sending: {error!r}")

    def _connect(self) -> None:
        line = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S)
        client = self._clients[line.fileno()] = _Client(line, next(self._requests))
        self._poll.register(line, select.EPOLLIN)
        self._send(client)

    def _end(self, number: int) -> None:
        self._poll.unregister(number)
        self._clients.pop(number).socket.close()
