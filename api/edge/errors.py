"""Problems, as RFC 9457 spells them."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Response, current_app, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from api.calls import problems
from api.calls.problems import PROBLEMS, Explained, explain, explain_unexpected
from api.edge.edge import call_of

if TYPE_CHECKING:
    from collections.abc import Callable

_CODE_OF_STATUS = {400: "bad_input", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def install(app: Flask) -> None:
    """Answer every error of the application as a problem."""
    handlers: list[tuple[type[Exception], Callable[[Any], Response]]] = [
        (
            ParseException,
            lambda _: problem_response("bad_input", "The body cannot be read: it is malformed, or came too slowly."),
        ),
        (HTTPException, _http),
        (Exception, lambda error: _respond(explain(error, call_of(request.environ)))),
    ]
    for kind, handler in handlers:
        app.register_error_handler(kind, handler)


def problem_response(code: str, detail: str, *, headers: Mapping[str, str] | None = None, **facts: str) -> Response:
    """Build the response for a code of the table."""
    problem = PROBLEMS[code]
    body = {
        "type": f"urn:wallet:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": code,
        "message": detail,
        "trace_id": call_of(request.environ).trace.trace_id,
        **facts,
    }
    return Response(orjson.dumps(body), problem.status, headers=headers or {}, mimetype="application/problem+json")


def code_of(error: Exception) -> str:
    """Return the code of the problem that an error of a view is answered with."""
    return _code_of_http(error) if isinstance(error, HTTPException) else problems.code_of(error)


def _respond(found: Explained) -> Response:
    return problem_response(found.code, found.detail, headers=found.headers, **found.facts)


def _http(error: HTTPException) -> Response:
    """Translate what Flask and Werkzeug raise by themselves."""
    code = _code_of_http(error)
    if code == "unavailable":
        return _respond(explain_unexpected(error, call_of(request.environ)))
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    details = {
        "not_found": f"There is nothing at {request.root_path}{request.path}.",
        "method_not_allowed": f"{request.method} is not possible here.",
        "payload_too_large": f"The body may have {current_app.config['MAX_CONTENT_LENGTH']} bytes.",
    }
    return problem_response(code, details.get(code, "The request cannot be read."), headers=headers)


def _code_of_http(error: HTTPException) -> str:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    return "unavailable" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _CODE_OF_STATUS.get(status, "bad_input")
