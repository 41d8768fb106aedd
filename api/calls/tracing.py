"""Request ids and W3C trace context: taken over when they are well-formed, made up when not, always answered."""

import random
import re
from typing import NamedTuple

from observe import logs

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
# What a log line and a header can carry without escaping.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# An id is no secret, it only has to be no other request's. (Python draws a seed anew in every process that forks.)
_draw = random.getrandbits


class Trace(NamedTuple):
    """The trace that a call belongs to, with a span of its own."""

    trace_id: str
    span_id: str
    flags: str
    request_id: str

    @property
    def traceparent(self) -> str:
        """Spell it for the answer and for the job."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def begin(traceparent: str | None, request_id: str | None) -> Trace:
    """Give a call its trace, and what is logged on its behalf too.

    Args:
        traceparent: as it was sent, if it was.
        request_id: likewise.
    """
    given = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    # Neither is ever 0, which says that there is none.
    trace_id, flags = (given[1], given[3]) if given else (f"{_draw(128) or 1:032x}", "00")
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = trace_id
    logs.begin_context(trace_id=trace_id, request_id=request_id)
    return Trace(trace_id, f"{_draw(64) or 1:016x}", flags, request_id)
