"""One log line for every request, with its latency and status."""

import time
from http import HTTPStatus

import structlog
from flask import Flask, Response, g, request

import metrics

_log = structlog.get_logger("access")
# Probes come every few seconds for ever; they are worth a line only to whoever debugs them.
_QUIET = frozenset({"health.healthz", "health.readyz", "metrics.scrape"})


def install(app: Flask) -> None:
    """Log every request of the application."""
    app.before_request(_start)
    app.after_request(_finish)


def _start() -> None:
    g.started_at = time.perf_counter()


def _finish(response: Response) -> Response:
    write = _log.debug if request.endpoint in _QUIET and response.status_code < HTTPStatus.BAD_REQUEST else _log.info
    route, duration_s = request.url_rule.rule if request.url_rule else None, time.perf_counter() - g.started_at
    metrics.observe_request(request.method, route, response.status_code, duration_s)
    write(
        "request",
        method=request.method,
        # The path without its query, which may hold anything.
        path=request.path,
        route=route,
        status=response.status_code,
        duration_ms=round(duration_s * 1000, 3),
    )
    return response
