"""How a call can fail: the codes of the contract, and the one table that turns facts into them.

Each face spells a problem its own way: REST as RFC 9457 has it, gRPC as a code of its own with trailing metadata.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.calls.call import Call
from models.database.faults import first_line
from models.errors import (
    BulkNotFound,
    EntriesLeft,
    EventNotFound,
    Fault,
    IdempotencyKeyReused,
    NoIndexServes,
    OutcomeUnknown,
    Refused,
    TooManyWebhooks,
    TransferNotFound,
    WalletServiceError,
    WebhookNotFound,
)

_log = structlog.get_logger("api")

RETRY_AFTER_S = 1


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
        Problem("bulk_not_found", 404, "No such bulk"),
        Problem("webhook_not_found", 404, "No such webhook"),
        Problem("method_not_allowed", 405, "Method not allowed"),
        Problem("payload_too_large", 413, "The body is too large"),
        Problem("unsupported_media_type", 415, "The body must be application/json"),
        Problem("wallet_frozen", 422, "The wallet is frozen"),
        Problem("balance_insufficient", 422, "The balance is insufficient"),
        Problem("self_transfer_invalid", 422, "Cannot transfer to oneself"),
        Problem("balance_overflow", 422, "The balance would become too large"),
        Problem("not_reversible", 422, "The transfer cannot be given back"),
        Problem("reversal_exceeds", 422, "Less is left of the transfer"),
        Problem("idempotency_key_reused", 422, "The idempotency key was used before"),
        Problem("not_cancelable", 422, "It can be canceled no more"),
        Problem("entries_left", 422, "Entries of this time have left"),
        Problem("rate_limited", 429, "Too many requests"),
        Problem("unavailable", 503, "Temporarily unavailable"),
        Problem("outcome_unknown", 503, "The outcome is not known"),
    )
}


@dataclass
class ApiError(Exception):
    """A call that cannot be served, found out by the API itself. ``headers``: what is told besides."""

    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


class DeadlinePassed(Exception):
    """A caller's own deadline has passed, before he was told all that there is to be told."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A problem that has happened: its code, a text for people, what is told besides, facts for programs."""

    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


# What somebody has asked for and is not there, or may not be.
_LACKING: Mapping[type[Exception], tuple[str, str]] = {
    TransferNotFound: ("job_not_found", "There is no such job, or it is not yours."),
    BulkNotFound: ("bulk_not_found", "There is no such bulk, or it is not yours."),
    WebhookNotFound: ("webhook_not_found", "There is no such webhook."),
    EventNotFound: ("bad_input", "body: event_id: there is no such event for this webhook, or it is kept no more"),
    TooManyWebhooks: ("bad_input", "There are as many webhooks as there may be."),
}


def code_of(error: Exception) -> str:
    """Return the code of what :func:`explain` makes of an error, for a call that has placed nothing."""
    if type(error) in _LACKING:
        return _LACKING[type(error)][0]
    match error:
        case ApiError() | Refused():
            return error.code
        case OutcomeUnknown():
            return "outcome_unknown"
    return "unavailable"


def explain(error: Exception, call: Call) -> Explained:
    """Say what an error comes to for whoever has called. What is ours alone to know goes into the log."""
    match error:
        case ApiError():
            return Explained(error.code, error.detail, error.headers)
        case Refused():
            return _refused(error)
        case WalletServiceError() if (found := _unfound(error)) is not None:
            return found
        case OutcomeUnknown():
            _log.error("outcome unknown", job_id=str(error.transfer_id), cause=first_line(error))
            return _unknown(error.transfer_id)
        case Fault() | DBAPIError() | PoolTimeoutError():
            _log.error("unavailable", cause=first_line(error))
            return _failed(call, "The service cannot reach its database, or is too busy.")
    return explain_unexpected(error, call)


def _refused(error: Refused) -> Explained:
    """Say why the books do not allow it; a key that was used names what it is bound to."""
    if isinstance(error, IdempotencyKeyReused):
        return Explained(error.code, str(error), facts={"transfer_id": str(error.transfer_id)})
    return Explained(error.code, str(error))


def explain_unexpected(error: Exception, call: Call) -> Explained:
    """Say that a defect of ours has shown. In the placing of an order it is an OutcomeUnknown, if anything was sent."""
    _log.critical("unexpected error", exc_info=error)
    return _failed(call, "The service met an unexpected error, which has been logged.")


def _unfound(error: WalletServiceError) -> Explained | None:
    """Say what there is none of, and what there may be instead; None: it is about something else."""
    if type(error) in _LACKING:
        return Explained(*_LACKING[type(error)])
    match error:
        case NoIndexServes():
            return Explained("bad_input", f"query: {error.asked}: needs {error.needed}")
        case EntriesLeft():
            last_day = vars(error).get("last_day")  # where they leave just now, nobody knows yet
            upto = "" if last_day is None else f" up to {last_day}"
            why = f"Entries{upto} have left the database for an archive: ask for what is later."
            return Explained("entries_left", why)
    return None


def _failed(call: Call, why: str) -> Explained:
    """Say that nothing moved, unless this call's transfer stands in the books already."""
    if call.placed is not None:
        return _unknown(call.placed)
    return Explained("unavailable", f"{why} Nothing moved.", {"Retry-After": str(RETRY_AFTER_S)})


def _unknown(transfer_id: int) -> Explained:
    return Explained(
        "outcome_unknown",
        "The answer was lost on its way. Ask the jobs endpoint, or repeat with the same Idempotency-Key.",
        {"Retry-After": str(RETRY_AFTER_S)},
        {"transfer_id": str(transfer_id)},
    )
