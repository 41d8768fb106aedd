"""A stand-in for the service, for what a real one never says, or cannot be asked yet."""

import json
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]


@dataclass
class Heard:
    """What a stand-in for the service has been asked."""

    method: str
    target: str
    headers: dict[str, str]
    body: Json | None

    @property
    def names(self) -> set[str]:
        """All names of what was sent, in the query and in the body."""
        return {*parse_qs(urlsplit(self.target).query), *(self.body or ())}


class StandIn:
    """Answers every request with one text, and remembers it: the document's own example in place of a service."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[Heard] = []
        self.status, self.answer = 200, b"{}"
        self.kind = "application/json"
        self.missing = 0  # bytes that it promises, and breaks off before
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stand_in.heard.append(
                    Heard(self.command, self.path, dict(self.headers), json.loads(body) if body else None)
                )
                self.send_response(stand_in.status)
                self.send_header("Content-Type", stand_in.kind)
                self.send_header("Content-Length", str(len(stand_in.answer) + stand_in.missing))
                self.end_headers()
                self.wfile.write(stand_in.answer)
                self.close_connection = stand_in.missing > 0

            do_POST = do_DELETE = do_GET  # noqa: N815 - as http.server wants them to be called

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' * (tls is not None)}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
