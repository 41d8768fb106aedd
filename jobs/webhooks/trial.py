"""A receiver on this machine, to see what would be sent: it keeps what comes, as it came, and answers 204."""

import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self

HOST = "127.0.0.1"
MOST_BODY_BYTES = 1 << 20


class Received(NamedTuple):
    """A request: its headers by their names in lower case, and its body."""

    headers: Mapping[str, str]
    body: bytes


class TrialReceiver:
    """Listens on loopback while it is used as a context manager."""

    def __init__(self, port: int) -> None:
        """Listen on a port; 0: on any that is free."""
        self.received: SimpleQueue[Received] = SimpleQueue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
                    self.send_error(HTTPStatus.BAD_REQUEST)
                    return
                body = self.rfile.read(int(length))
                received.put(Received({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing: whoever listens is told what came."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="trial receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
