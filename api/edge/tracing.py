"""Request ids and W3C trace context: taken over when they are well-formed, made up when not, always answered."""

import re
import secrets
from dataclasses import dataclass
from typing import Any

import structlog
from flask import request

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
# What a log line and a header can carry without escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Where it is in the request's environment.
_KEY = "wallet.trace"


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


def begin(environ: dict[str, Any]) -> Trace:
    """Give a request its trace, and what is logged on its behalf too."""
    given = _TRACEPARENT.fullmatch(environ.get("HTTP_TRACEPARENT", ""))
    trace_id, flags = (given[1], given[3]) if given else (secrets.token_hex(16), "00")
    request_id = environ.get("HTTP_X_REQUEST_ID", "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = trace_id
    trace = environ[_KEY] = Trace(trace_id, secrets.token_hex(8), flags, request_id)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(trace_id=trace_id, request_id=request_id)
    return trace


def current() -> Trace:
    """Return the running request's trace."""
    trace: Trace = request.environ[_KEY]
    return trace
