"""How a call can fail: one class a family of codes. ``code`` is what to rely on; texts are for people."""

from dataclasses import dataclass, replace
from typing import Self

NO_ANSWER = "no_answer"  # sent, and nothing came back that could be read: a code of the client's own
UNREACHABLE = "unreachable"  # no connection could be made, so nothing was sent: another one


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What the service has said (RFC 9457), or what the client found out by itself: then ``status`` is None."""

    code: str
    status: int | None
    detail: str
    message: str
    trace_id: str | None = None
    transfer_id: int | None = None
    retry_after_s: float | None = None


class WalletError(Exception):
    """A call that did not succeed.

    ``idempotency_key`` is the key it went under, where it has one. Whoever repeats the call under it moves the money
    once, however often that is, today or in a year.
    """

    def __init__(self, problem: Problem, idempotency_key: str | None = None) -> None:
        super().__init__(problem, idempotency_key)
        self.problem = problem
        self.idempotency_key = idempotency_key

    def __str__(self) -> str:
        """Say it to people."""
        under = f" (idempotency key {self.idempotency_key})" if self.idempotency_key else ""
        return f"{self.code}: {self.detail}{under}"

    @property
    def code(self) -> str:
        """The code of the contract, :data:`NO_ANSWER` or :data:`UNREACHABLE`."""
        return self.problem.code

    @property
    def status(self) -> int | None:
        """The HTTP status; None where no answer came."""
        return self.problem.status

    @property
    def detail(self) -> str:
        """What is wrong with this very call."""
        return self.problem.detail

    @property
    def message(self) -> str:
        """The same, as the service spells it a second time."""
        return self.problem.message

    @property
    def trace_id(self) -> str | None:
        """What to look for in the service's logs."""
        return self.problem.trace_id

    @property
    def transfer_id(self) -> int | None:
        """The transfer that it is about, where the service names one."""
        return self.problem.transfer_id

    @property
    def retry_after_s(self) -> float | None:
        """After how many seconds the service wants to be asked again."""
        return self.problem.retry_after_s

    def under(self, idempotency_key: str | None) -> Self:
        """Return it with the key that it went under."""
        return type(self)(self.problem, idempotency_key)


class BadRequest(WalletError):
    """The request is not well-formed (400, 405, 413, 415 and their like): a mistake of the caller's."""


class Unauthorized(WalletError):
    """No credentials, or wrong ones (401)."""


class Forbidden(WalletError):
    """These credentials may not do this (403)."""


class NotFound(WalletError):
    """No such wallet, job or whatever it was (404)."""


class Refused(WalletError):
    """A business no (422): nothing moved, and ``code`` says why. It binds no key."""


class RateLimited(WalletError):
    """The caller's budget is empty (429), after as many repetitions as were allowed. Nothing happened."""


class Unavailable(WalletError):
    """The service, or the way to it, is away (503), after as many repetitions as were allowed. Nothing happened."""


class OutcomeUnknown(WalletError):
    """It may have happened, or not: the answer was lost, again and again. Repeat under ``idempotency_key``."""


class NotFinal(TimeoutError):
    """What was waited for had no final status in time. It goes on by itself."""


class EventsMissed(Exception):
    """Events between the one asked for and the oldest one kept are gone; ``missed``: how many."""

    def __init__(self, missed: int) -> None:
        super().__init__(missed)
        self.missed = missed

    def __str__(self) -> str:
        """Say it to people."""
        return f"{self.missed} events are kept no more"


_OF_STATUS: dict[int, type[WalletError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    422: Refused,
    429: RateLimited,
    503: Unavailable,
}
_CLIENT_ERROR, _SERVER_ERROR = 400, 500


def error_of(problem: Problem) -> WalletError:
    """Return the error for what a service, or something in front of it, has answered."""
    status = problem.status or _SERVER_ERROR
    # A 5xx of a proxy does not say whether the service has heard of the request.
    if problem.code == "outcome_unknown" or (status >= _SERVER_ERROR and problem.code != "unavailable"):
        return OutcomeUnknown(problem)
    if status < _CLIENT_ERROR:
        return WalletError(problem)
    return _OF_STATUS.get(status, BadRequest)(problem)


def lost(detail: str) -> OutcomeUnknown:
    """Return the error for a request that was sent and whose answer never came, or could not be read."""
    return OutcomeUnknown(Problem(code=NO_ANSWER, status=None, detail=detail, message=detail))


def unreachable(detail: str) -> Unavailable:
    """Return the error for a request that could not be sent."""
    return Unavailable(Problem(code=UNREACHABLE, status=None, detail=detail, message=detail))


def doubtful(error: WalletError, transfer_id: int | None) -> OutcomeUnknown:
    """Return what an error comes to when an earlier try of the same call may have had its effect."""
    return OutcomeUnknown(replace(error.problem, transfer_id=error.transfer_id or transfer_id))
