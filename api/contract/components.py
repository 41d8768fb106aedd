"""What the operations of ``/openapi.json`` share: headers, problems and ways to sign in."""

from typing import Any, TypeAlias

from api.calls.problems import PROBLEMS, Problem
from api.contract.checking import MAX_KEY_LENGTH
from api.contract.operations import AN_ID

Json: TypeAlias = dict[str, Any]

_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_TRACEPARENT = f"00-{_TRACE_ID}-b7ad6b7169203331-01"

USER_SCHEMES: dict[str, Json] = {
    "user-id": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The user's id, a positive integer: for development, where callers are believed.",
    },
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "`sub` is the user's id."},
}
ADMIN_SCHEME = {"type": "http", "scheme": "basic", "description": "The administrator's name and password."}


def _header(description: str, example: str, *, required: bool = True, **schema: object) -> Json:
    return {
        "description": description,
        "required": required,
        "schema": {"type": "string"} | schema,
        "example": example,
    }


HEADERS: dict[str, Json] = {
    "X-Request-ID": _header("The request's own id if it had a usable one, else the trace id.", "checkout-17"),
    "traceparent": _header(
        "W3C trace context: the request's trace, or a new one.",
        _TRACEPARENT,
        pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
    ),
    "Location": _header("Where to follow the job.", f"/api/jobs/v1/{AN_ID}", format="uri-reference"),
    "Content-Disposition": _header("What to call the file.", 'attachment; filename="statement.csv"'),
    "Retry-After": {
        "description": "After how many seconds to ask again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    },
    "Idempotency-Replayed": _header(
        "`true`: this is the first answer to this Idempotency-Key again; nothing moved.",
        "true",
        required=False,
        const="true",
    ),
    "WWW-Authenticate": _header("How to sign in.", 'Basic realm="wallet-admin", charset="UTF-8"'),
    "Allow": _header("The methods that are possible here.", "OPTIONS, POST"),
    "RateLimit": _header("What is left of the caller's budget.", '"user";r=49;t=1', required=False),
    "RateLimit-Policy": _header("The caller's budget.", '"user";q=50;w=1', required=False),
}
HEADERS_OF_STATUS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}

# Without examples, which Swagger UI would send along: one's second try would be a replay of the first.
REQUEST_HEADERS: dict[str, Json] = {
    "Idempotency-Key": {
        "description": "The same key, call and body give the first answer again, and move nothing. Keys never expire. "
        "UTF-8, without control characters; sent once.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_KEY_LENGTH,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
        },
    },
    "X-Request-ID": {
        "description": "Taken over if it has 1 to 128 of the characters `A-Z a-z 0-9 . _ : / + = @ -`.",
        "schema": {"type": "string"},
    },
    "traceparent": {
        "description": "W3C trace context, version 00: taken over if it is well-formed.",
        "schema": {"type": "string"},
    },
}

PROBLEM: Json = {
    "type": "object",
    "title": "Problem",
    "description": "An error, as RFC 9457 spells it. `code` is what to rely on.",
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "`urn:wallet:problem:` and the code."},
        "title": {"type": "string"},
        "status": {"type": "integer", "description": "The HTTP status again."},
        "detail": {"type": "string", "description": "What is wrong with this very request."},
        "code": {"type": "string", "enum": list(PROBLEMS)},
        "message": {"type": "string", "description": "The same as `detail`."},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "What to look for in the logs."},
        "transfer_id": {
            "type": "string",
            "pattern": "^[1-9][0-9]{0,18}$",
            "description": "With `outcome_unknown` only: the transfer to ask the jobs endpoint for.",
        },
    },
    "required": ["type", "title", "status", "detail", "code", "message", "trace_id"],
    "if": {"properties": {"code": {"const": "outcome_unknown"}}},
    "then": {"required": ["transfer_id"]},
}


def problem_example(problem: Problem) -> Json:
    """Show a problem as it is answered."""
    value: Json = {
        "type": f"urn:wallet:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": f"{problem.title}.",
        "code": problem.code,
        "message": f"{problem.title}.",
        "trace_id": _TRACE_ID,
    }
    if problem.code == "outcome_unknown":
        value["transfer_id"] = AN_ID
    return {"summary": problem.title, "value": value}
