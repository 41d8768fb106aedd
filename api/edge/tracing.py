"""Request ids and W3C trace context: taken over when they are well-formed, made up when not, always answered."""

import random
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import request

from observe import logs

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
# What a log line and a header can carry without escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Where it is in the request's environment.
_KEY = "wallet.trace"
# An id is no secret, it only has to be no other request's. (Python draws a seed anew in every process that forks.)
_draw = random.getrandbits


class Trace(NamedTuple):
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
    given = _TRACEPARENT.fullmatch(environ["HTTP_TRACEPARENT"]) if "HTTP_TRACEPARENT" in environ else None
    # Neither is ever 0, which says that there is none.
    trace_id, flags = (given[1], given[3]) if given else (f"{_draw(128) or 1:032x}", "00")
    request_id = environ.get("HTTP_X_REQUEST_ID")
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = trace_id
    trace = environ[_KEY] = Trace(trace_id, f"{_draw(64) or 1:016x}", flags, request_id)
    logs.begin_context(trace_id=trace_id, request_id=request_id)
    return trace


def of(environ: Mapping[str, Any]) -> Trace:
    """Return a request's trace."""
    trace: Trace = environ[_KEY]
    return trace


def current() -> Trace:
    """Return that of Flask's request."""
    return of(request.environ)
