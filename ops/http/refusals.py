"""What the server itself answers, in the application's words: problems (RFC 9457) about requests it never sees."""

import secrets
from typing import NamedTuple

import orjson


class Refusal(NamedTuple):
    """An answer, and the trace id that is in it."""

    answer: bytes
    trace_id: str


def unreadable(detail: str) -> Refusal:
    """Say that a request cannot be read."""
    return _refuse("400 Bad Request", "bad_input", "The request is not well-formed", detail)


def too_busy() -> Refusal:
    """Say that there is no time for a request."""
    detail = "The service has too much to do just now. Nothing moved."
    return _refuse("503 Service Unavailable", "unavailable", "Temporarily unavailable", detail)


def _refuse(status: str, code: str, title: str, detail: str) -> Refusal:
    trace_id = secrets.token_hex(16)
    problem = {"type": f"urn:wallet:problem:{code}", "title": title, "status": int(status[:3]), "detail": detail}
    body = orjson.dumps(problem | {"code": code, "message": detail, "trace_id": trace_id})
    headers = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        "Content-Type: application/problem+json",
        "Cache-Control: no-store",
        f"X-Request-ID: {trace_id}",
        f"traceparent: 00-{trace_id}-{secrets.token_hex(8)}-00",
        f"Content-Length: {len(body)}",
        *(["Retry-After: 1"] if code == "unavailable" else []),
    ]
    return Refusal("\r\n".join([*headers, "", ""]).encode() + body, trace_id)
