"""A client that never gives up: it repeats each request under its idempotency key until it has an answer."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Answers after which the same request may be sent again, and must be: it is not known what came of it, or nothing did.
RETRIED = frozenset({429, 500, 502, 503})
ANSWER_TIMEOUT_S = 15.0


@dataclass(slots=True)
class Call:
    """One request that moves money, and its definite answer."""

    user: int
    path: str
    body: dict[str, int]
    key: str
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    tries: int = 0


class Client(threading.Thread):
    """Sends random requests until told to stop, one at a time, and keeps what was answered."""

    def __init__(
        self, name: str, port: int, *, users: int, seed: int, keeps_alive: bool = True, pause_s: float = 0.0
    ) -> None:
        """Without ``keeps_alive`` every request has a connection of its own; ``pause_s`` is kept after each answer."""
        super().__init__(name=name, daemon=True)
        self.calls: list[Call] = []
        self.statuses: Counter[int | str] = Counter()
        self._port = port
        self._users = users
        self._keeps_alive = keeps_alive
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def stop(self) -> None:
        """Ask it to end once the request under way has been answered."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            call = self._draw(len(self.calls))
            self.calls.append(call)
            self._send_until_answered(call)
            self._stopping.wait(self._pause_s)
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, user: int, path: str) -> tuple[int, Any]:
        """Read something, on a new connection if the old one has died meanwhile."""
        try:
            return self.ask(user, "GET", path)
        except (OSError, http.client.HTTPException):
            return self.ask(user, "GET", path)

    def ask(self, user: int, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        """Send one request and return status and body.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        headers = {"Authorization": str(user)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT_S)
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except BaseException:
            self.close()
            raise
        finally:
            if not self._keeps_alive:
                self.close()

    def _send_until_answered(self, call: Call) -> None:
        while True:
            call.tries += 1
            try:
                status, answer = self.ask(call.user, "POST", call.path, call.body, call.key)
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                time.sleep(0.05)  # the bound on how hard a dead server is knocked at, not a wait for anything
                continue
            self.statuses[status] += 1
            if status in RETRIED:
                time.sleep(0.05)
                continue
            call.status, call.answer = status, answer
            return

    def _draw(self, number: int) -> Call:
        user = self._random.randint(1, self._users)
        other = self._random.choice([each for each in range(1, self._users + 1) if each != user])
        amount = self._random.randint(1, 500)
        path = self._random.choices(
            ["/api/transfer/v2", "/api/transfer/v1", "/api/deposit/v1", "/api/withdraw/v1"], [60, 20, 10, 10]
        )[0]
        body = {"amount": amount} | ({"destination_user_id": other} if "transfer" in path else {})
        return Call(user, path, body, f"{self.name}-{number}")
