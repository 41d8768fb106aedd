"""A process's own /metrics, where no API process shares its folder, and /healthz of who works in rounds.

One request at a time is answered, on a thread of its own.
"""

import socket
import socketserver
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

import structlog

from observe import background, metrics_files, rounds

# A client that neither asks nor reads holds up the next one for this long.
CLIENT_TIMEOUT_S = 5.0
# Until a port that was taken is tried again: well within the pause between two scrapes.
RETRY_S = 1.0

_log = structlog.get_logger("metrics")


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer what the processes of this folder have counted; or whether this one still goes round."""
        if self.path == "/healthz":
            self.send_response(HTTPStatus.OK if rounds.of_work.go_on() else HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = metrics_files.exposition()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", metrics_files.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: it comes every few seconds for ever."""


class MetricsServer(socketserver.TCPServer):
    """Listens when it is made."""

    allow_reuse_address = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave a client that has gone or that never asked to itself."""
        del request, client_address
        _log.debug("not answered", exc_info=True)


def serve_metrics(host: str, port: int | None, *, is_shared: bool = False) -> None:
    """Serve them until the process ends; nothing happens without a port.

    A port that is taken is no reason not to work: of several processes of one folder one shows what all count, and when
    it ends, as at a reload, another does.

    Args:
        host: to listen on.
        port: likewise; None: nowhere.
        is_shared: whether siblings have the same port, and finding it taken is nothing to warn of.
    """
    if port is None:
        return
    server = _listen(host, port, level="info" if is_shared else "warning")

    def serve() -> None:
        nonlocal server
        while server is None:
            time.sleep(RETRY_S)
            server = _listen(host, port)
        server.serve_forever()

    background.start("metrics_server", serve)


def _listen(host: str, port: int, *, level: str = "") -> MetricsServer | None:
    try:
        return MetricsServer(host, port)
    except OSError as error:
        if level:
            getattr(_log, level)("metrics are not served", port=port, cause=error.strerror)
        return None
