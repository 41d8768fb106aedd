"""Problems, as RFC 9457 spells them: the one table that turns facts into HTTP."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from flask import Flask, Response, current_app, request
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from api.edge import tracing
from models.database.faults import first_line
from models.errors import Fault, OutcomeUnknown, Refused, TransferNotFound, WalletServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger("api")

RETRY_AFTER_S = 1
# Where the environment of a request says which transfer of it stands in the books.
_PLACED = "wallet.placed"


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem: its code, status and title are the contract."""

    code: str
    status: int
    title: str


PROBLEMS = {
    problem.code: problem
    for problem in (
        Problem("bad_input", 400, "The request is not well-formed"),
        Problem("invalid_amount", 400, "The amount is not valid"),
        Problem("unauthorized", 401, "Credentials are missing or wrong"),
        Problem("forbidden", 403, "Not allowed"),
        Problem("not_found", 404, "Nothing is here"),
        Problem("wallet_not_found", 404, "No such wallet"),
        Problem("job_not_found", 404, "No such job"),
        Problem("method_not_allowed", 405, "Method not allowed"),
        Problem("payload_too_large", 413, "The body is too large"),
        Problem("unsupported_media_type", 415, "The body must be application/json"),
        Problem("balance_insufficient", 422, "The balance is insufficient"),
        Problem("self_transfer_invalid", 422, "Cannot transfer to oneself"),
        Problem("balance_overflow", 422, "The balance would become too large"),
        Problem("idempotency_key_reused", 422, "The idempotency key was used before"),
        Problem("rate_limited", 429, "Too many requests"),
        Problem("unavailable", 503, "Temporarily unavailable"),
        Problem("outcome_unknown", 503, "The outcome is not known"),
    )
}
_CODE_OF_STATUS = {400: "bad_input", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


@dataclass
class ApiError(Exception):
    """A request that cannot be served, found out by the API itself."""

    code: str
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


def install(app: Flask) -> None:
    """Answer every error of the application as a problem."""
    handlers: list[tuple[type[Exception], Callable[[Any], Response]]] = [
        (ApiError, lambda error: problem_response(error.code, error.detail, headers=error.headers)),
        (Refused, lambda error: problem_response(error.code, str(error))),
        (TransferNotFound, lambda _: problem_response("job_not_found", "There is no such job, or it is not yours.")),
        (OutcomeUnknown, _outcome_unknown),
        (Fault, _unavailable),
        (DBAPIError, _unavailable),
        (PoolTimeoutError, _unavailable),
        (
            ParseException,
            lambda _: problem_response("bad_input", "The body cannot be read: it is malformed, or came too slowly."),
        ),
        (HTTPException, _http),
        (Exception, _unexpected),
    ]
    for kind, handler in handlers:
        app.register_error_handler(kind, handler)


def problem_response(code: str, detail: str, *, headers: dict[str, str] | None = None, **extra: object) -> Response:
    """Build the response for a code of the table."""
    problem = PROBLEMS[code]
    body = {
        "type": f"urn:wallet:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": code,
        "message": detail,
        "trace_id": tracing.current().trace_id,
        **extra,
    }
    return Response(orjson.dumps(body), problem.status, headers=headers or {}, mimetype="application/problem+json")


def note_placed(environ: dict[str, Any], transfer_id: int) -> None:
    """Note that the books have this request's transfer: whatever goes wrong from here on, it stands."""
    environ[_PLACED] = transfer_id


def _outcome_unknown(error: OutcomeUnknown) -> Response:
    _log.error("outcome unknown", job_id=str(error.transfer_id), cause=first_line(error))
    return _unknown(error.transfer_id)


def _unknown(transfer_id: int) -> Response:
    return problem_response(
        "outcome_unknown",
        "The answer was lost on its way. Ask the jobs endpoint, or repeat with the same Idempotency-Key.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
        transfer_id=str(transfer_id),
    )


def _unavailable(error: WalletServiceError | DBAPIError | PoolTimeoutError) -> Response:
    _log.error("unavailable", cause=first_line(error))
    return _failed("The service cannot reach its database, or is too busy.")


def _failed(why: str) -> Response:
    """Answer that nothing moved, unless this request's transfer stands in the books already."""
    placed = request.environ.get(_PLACED)
    if placed is not None:
        return _unknown(placed)
    return problem_response("unavailable", f"{why} Nothing moved.", headers={"Retry-After": str(RETRY_AFTER_S)})


def _http(error: HTTPException) -> Response:
    """Translate what Flask and Werkzeug raise by themselves."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unexpected(error)
    code = _CODE_OF_STATUS.get(status, "bad_input")
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    details = {
        "not_found": f"There is nothing at {request.root_path}{request.path}.",
        "method_not_allowed": f"{request.method} is not possible here.",
        "payload_too_large": f"The body may have {current_app.config['MAX_CONTENT_LENGTH']} bytes.",
    }
    return problem_response(code, details.get(code, "The request cannot be read."), headers=headers)


def _unexpected(error: Exception) -> Response:
    """Answer a defect of ours. In the placing of an order it would be an OutcomeUnknown, if anything was sent."""
    _log.critical("unexpected error", exc_info=error)
    return _failed("The service met an unexpected error, which has been logged.")
