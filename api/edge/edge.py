"""The outermost layer: every request gets a trace, every response its headers, and both become one line in the log.

It is WSGI and not Flask, because it is on the way of everything: before_request and after_request functions that do the
same cost three times as much, and do not see what Flask itself fails at.
"""

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from api.edge import tracing
from api.edge.headers import DEFAULTS
from observe import metrics

if TYPE_CHECKING:
    from flask import Request

# What the application leaves for this layer to find, in the request's environment.
HEADERS = "wallet.headers"

# Probes and scrapes come every few seconds for ever; they are worth a line only to whoever debugs them.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

_log = structlog.get_logger("access")

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Edge:
    """Wraps an application."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        started_at = time.perf_counter()
        trace = tracing.begin(environ)

        def respond(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            names = {name for name, _ in headers}
            headers += [default for default in DEFAULTS if default[0] not in names]
            headers += environ.get(HEADERS, ())
            headers.append(("X-Request-ID", trace.request_id))
            headers.append(("traceparent", trace.traceparent))
            _tell(environ, int(status[:3]), time.perf_counter() - started_at)
            return start_response(status, headers, *exc_info)

        try:
            return self._application(environ, respond)
        finally:
            # What the server itself logs on this thread, before the next request, is not about this one.
            structlog.contextvars.clear_contextvars()


def add_header(environ: dict[str, Any], name: str, value: str) -> None:
    """Let the response, whatever it will be, have another header."""
    environ.setdefault(HEADERS, []).append((name, value))


def _tell(environ: dict[str, Any], status: int, seconds: float) -> None:
    request: Request | None = environ.get("werkzeug.request")
    route = request.url_rule.rule if request is not None and request.url_rule is not None else None
    metrics.observe_request(environ["REQUEST_METHOD"], route, status, seconds)
    write = _log.debug if route in _QUIET and status < HTTPStatus.BAD_REQUEST else _log.info
    write(
        "request",
        method=environ["REQUEST_METHOD"],
        # The path without its query, which may hold anything.
        path=environ.get("PATH_INFO", ""),
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 3),
    )
