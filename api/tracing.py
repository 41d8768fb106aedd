"""Request ids and W3C trace context: taken over when they are well-formed, made up when not, always answered."""

import re
import secrets
from dataclasses import dataclass

import structlog
from flask import Flask, Response, g, request

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
# What a log line and a header can carry without escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that this request belongs to, with a span of its own."""

    trace_id: str
    span_id: str
    flags: str
    request_id: str

    @property
    def traceparent(self) -> str:
        """Spell it for the response and for the job."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def install(app: Flask) -> None:
    """Give every request a trace, and every response its headers."""
    app.before_request(_begin)
    app.after_request(_answer)
    # What the server itself logs on this thread, before the next request, is not about this one.
    app.teardown_request(lambda _error: structlog.contextvars.clear_contextvars())


def current() -> Trace:
    """Return the running request's trace."""
    trace: Trace = g.trace
    return trace


def _begin() -> None:
    structlog.contextvars.clear_contextvars()
    given = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    trace_id, flags = (given[1], given[3]) if given else (secrets.token_hex(16), "00")
    request_id = request.headers.get("X-Request-ID", "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = trace_id
    g.trace = Trace(trace_id, secrets.token_hex(8), flags, request_id)
    structlog.contextvars.bind_contextvars(trace_id=trace_id, request_id=request_id)


def _answer(response: Response) -> Response:
    trace = current()
    response.headers["X-Request-ID"] = trace.request_id
    response.headers["traceparent"] = trace.traceparent
    return response
