"""The outermost layer: every request gets a trace, every response its headers, and both become one line in the log.

It is WSGI and not Flask, because it is on the way of everything: before_request and after_request functions that do the
same cost three times as much, and do not see what Flask itself fails at.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from api.calls import tracing
from api.calls.call import Call
from api.edge.headers import DEFAULTS, HSTS
from api.edge.proxies import Proxies
from observe import logs, metrics

if TYPE_CHECKING:
    from flask import Request

# What is in the request's environment: the call that it is, and, from the application for this layer to find, the URL
# rule of what was answered without Flask.
_CALL, ROUTE = "wallet.call", "wallet.route"

# Probes and scrapes come every few seconds for ever; they are worth a line only to whoever debugs them.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Edge:
    """Wraps an application."""

    def __init__(self, application: Application, proxies: Proxies) -> None:
        self._application = application
        self._proxies = proxies

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        started_at = time.perf_counter()
        trace = tracing.begin(environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_X_REQUEST_ID"))
        call = environ[_CALL] = Call(
            trace, environ.get("HTTP_AUTHORIZATION"), partial(self._proxies.client_address, environ)
        )
        if "HTTP_X_FORWARDED_PREFIX" in environ:
            # Where WSGI has it: whatever spells a path, in Flask or not, puts this before it.
            environ["SCRIPT_NAME"] = self._proxies.prefix(environ)

        def respond(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            names = {name for name, _ in headers}
            headers += [default for default in DEFAULTS if default[0] not in names]
            headers += call.told
            if self._proxies.is_https(environ):
                headers.append(HSTS)
            headers.append(("X-Request-ID", trace.request_id))
            headers.append(("traceparent", trace.traceparent))
            _tell(environ, int(status[:3]), time.perf_counter() - started_at)
            return start_response(status, headers, *exc_info)

        try:
            return self._application(environ, respond)
        finally:
            # What the server itself logs on this thread, before the next request, is not about this one.
            logs.end_context()


def call_of(environ: Mapping[str, Any]) -> Call:
    """Return the call that a request is."""
    call: Call = environ[_CALL]
    return call


def _tell(environ: dict[str, Any], status: int, seconds: float) -> None:
    method, route = environ["REQUEST_METHOD"], environ.get(ROUTE) or _find_rule(environ)
    metrics.observe_request(method, route, status, seconds)
    is_quiet = route in _QUIET and status < HTTPStatus.BAD_REQUEST
    logs.write(
        "debug" if is_quiet else "info",
        "request",
        {
            "method": method,
            # The path without its query, which may hold anything.
            "path": environ.get("PATH_INFO", ""),
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
        },
    )


def _find_rule(environ: dict[str, Any]) -> str | None:
    """Return the URL rule that Flask has found, None if it has found none."""
    request: Request | None = environ.get("werkzeug.request")
    return request.url_rule.rule if request is not None and request.url_rule is not None else None
