"""A real gunicorn with ops' configuration, as a child process: for what a test client cannot show."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from tests.api.calls import Json, decode
from tests.api.contract.document import Exchange, check, lowered
from tests.project import ROOT

# Generous: on a busy machine gunicorn takes seconds to import all of it.
TIMEOUT_S = 60.0


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body as a JSON object."""
        return decode(self.body)


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """A running server."""

    port: int
    log: Path
    # The master.
    process: subprocess.Popen[bytes]

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterator[bytes] | None = None,
    ) -> Answer:
        """Send a request on a connection of its own; an iterator of pieces goes out chunked."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            sent = dict(headers or {}) | ({"Transfer-Encoding": "chunked"} if chunked else {})
            pieces = [body] if isinstance(body, bytes) else list(body or ())
            connection.request(method, path, iter(pieces) if chunked else body, sent, encode_chunked=chunked)
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            _check(method, path, sent, b"".join(pieces), answer)
            return answer
        finally:
            connection.close()

    def move(self, path: str, body: Json, *, user: int = 1, headers: Mapping[str, str] | None = None) -> Answer:
        """Move money."""
        return self.ask("POST", path, headers=json_of(user) | dict(headers or {}), body=encode(body))

    def get(self, path: str, *, user: int | str = 1) -> Answer:
        """Read something."""
        return self.ask("GET", path, headers={"Authorization": str(user)})

    def send_raw(self, request: bytes) -> bytes:
        """Send bytes that need not be HTTP, and return what comes back until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(65_536):
                received += piece
            return received

    def lines(self) -> list[str]:
        """Return the lines of the log so far, whole ones only."""
        return self.log.read_text().rpartition("\n")[0].splitlines()


def _check(method: str, url: str, sent: Mapping[str, str], body: bytes, answer: Answer) -> None:
    """Hold what was said against the document."""
    path, _, query = url.partition("?")
    exchange = Exchange(
        method=method,
        path=unquote(path),
        query=query,
        sent=lowered(sent),
        body=body,
        status=answer.status,
        headers=answer.headers,
        answer=answer.body,
    )
    check(exchange)


def json_of(user: int) -> dict[str, str]:
    """Return the headers of a user's JSON body."""
    return {"Authorization": str(user), "Content-Type": "application/json"}


def encode(body: Json) -> bytes:
    """Write a flat JSON object of integers."""
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in body.items()) + "}").encode()


@contextmanager
def gunicorn(log: Path, root: Path = ROOT, /, **environment: str) -> Iterator[Gunicorn]:
    """Run the server on a socket of ours, so that no port is ever guessed: requests wait there until it is up."""
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "ops/http/gunicorn.conf.py",
            "-b",
            f"fd://{listener.fileno()}",
            "wsgi:app",
        ]
        # Not one of the nursery's: what makes locks has to be imported after gevent's patch, by the server itself.
        process = subprocess.Popen(
            command,
            cwd=root,
            env={key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}} | environment,
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Gunicorn(listener.getsockname()[1], log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()
