"""Receivers of webhooks: real servers on loopback, which answer as a test has it."""

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

# Of a handler that waits for its test to be over.
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. ``headers``: by their names in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def event_id(self) -> int:
        return int(self.headers["webhook-id"])


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; ``hangs_up``: and then it closes the connection without having said so."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs_up: bool = False


class Receiver:
    """A server that keeps what it gets. ``answer`` may be set at any time, and may block, raise or hang up."""

    def __init__(self, *, certificate: Any = None, port: int = 0, kind: type[HTTPServer] = ThreadingHTTPServer) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.answer: Callable[[Received], Reply] = lambda _: Reply()
        self.over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.path, headers, body)
                receiver.received.append(request)
                reply = receiver.answer(request)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in reply.headers:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = self.close_connection or reply.hangs_up

            def log_message(self, *_: object) -> None:
                pass

        class Server(kind):  # type: ignore[valid-type, misc]
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Who has sent it may be gone, or was killed."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?of=mine"

    @property
    def event_ids(self) -> list[int]:
        return [each.event_id for each in list(self.received)]

    def hang(self, _: Received) -> Reply:
        """Answer nothing until the test is over."""
        self.over.wait(LONGEST_WAIT_S)
        return Reply()

    def answering(self, *replies: Reply) -> None:
        """Answer these, one after the other, and the last one from then on."""
        left = list(replies)
        lock = threading.Lock()

        def answer(_: Received) -> Reply:
            with lock:
                return left.pop(0) if len(left) > 1 else left[0]

        self.answer = answer

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
