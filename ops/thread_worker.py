"""gunicorn's threaded worker, with its own refusals in our words.

What gunicorn refuses before the application sees it (a request line that is none, headers without end) it answers in
HTML, with statuses that the contract does not have. Here it becomes the ``bad_input`` that it is.
"""

import secrets
import socket
from typing import Any

import orjson
import structlog
from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

_log = structlog.get_logger("gunicorn")

_HEAD = (
    "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    "Cache-Control: no-store\r\nX-Request-ID: {trace_id}\r\ntraceparent: 00-{trace_id}-{span_id}-00\r\n"
    "Content-Length: {length}\r\n\r\n"
)


class ProblemThreadWorker(ThreadWorker):
    """Answers what cannot be read as a problem (RFC 9457)."""

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse a request that never reached the application; nothing of it was done."""
        del req, addr
        trace_id = secrets.token_hex(16)
        _log.warning("unreadable request", cause=type(exc).__name__, trace_id=trace_id)
        detail = "The request cannot be read as HTTP."
        body = orjson.dumps(
            {
                "type": "urn:wallet:problem:bad_input",
                "title": "The request is not well-formed",
                "status": 400,
                "detail": detail,
                "code": "bad_input",
                "message": detail,
                "trace_id": trace_id,
            }
        )
        head = _HEAD.format(length=len(body), trace_id=trace_id, span_id=secrets.token_hex(8))
        try:
            util.write_nonblock(client, head.encode() + body)
        except OSError:
            _log.debug("the client has gone")
