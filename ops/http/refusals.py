"""What the server itself answers, in the application's words: problems (RFC 9457) about requests it never sees."""

import secrets
from typing import NamedTuple

import orjson

_HEAD = (
    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n{more}"
    "Cache-Control: no-store\r\nX-Request-ID: {trace_id}\r\ntraceparent: 00-{trace_id}-{span_id}-00\r\n"
    "Content-Length: {length}\r\n\r\n"
)


class _Kind(NamedTuple):
    code: str
    status: int
    reason: str
    title: str
    headers: str


_BAD_INPUT = _Kind("bad_input", 400, "Bad Request", "The request is not well-formed", "")
_UNAVAILABLE = _Kind("unavailable", 503, "Service Unavailable", "Temporarily unavailable", "Retry-After: 1\r\n")


class Refusal(NamedTuple):
    """An answer, and the trace id that is in it."""

    answer: bytes
    trace_id: str


def unreadable(detail: str) -> Refusal:
    """Say that a request cannot be read."""
    return _refuse(_BAD_INPUT, detail)


def too_busy() -> Refusal:
    """Say that there is no time for a request."""
    return _refuse(_UNAVAILABLE, "The service has too much to do just now. Nothing moved.")


def _refuse(kind: _Kind, detail: str) -> Refusal:
    trace_id = secrets.token_hex(16)
    body = orjson.dumps(
        {
            "type": f"urn:wallet:problem:{kind.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            "code": kind.code,
            "message": detail,
            "trace_id": trace_id,
        }
    )
    head = _HEAD.format(
        status=f"{kind.status} {kind.reason}",
        more=kind.headers,
        trace_id=trace_id,
        span_id=secrets.token_hex(8),
        length=len(body),
    )
    return Refusal(head.encode() + body, trace_id)
