"""A transfer of any kind, as the job that makes it true."""

from functools import partial
from typing import Annotated, Any, TypeAlias

from api.contract.fields import Count, MovedCents, Outgoing, SpelledId, SpelledInstant, WaitQuery, words
from api.contract.operations import AN_ID, AN_INSTANT, Answer, Operation, Who
from jobs.event_json import resource_of
from models.ledger.transfer import Kind, Status, Transfer

StatusWord: TypeAlias = Annotated[str, words(Status)]
KindWord: TypeAlias = Annotated[str, words(Kind)]


class JobOut(Outgoing):
    """A transfer of any kind, as the job that makes it true."""

    job_id: SpelledId
    status: StatusWord
    source_user_id: SpelledId | None
    destination_user_id: SpelledId | None
    amount: MovedCents
    reason: str | None
    attempts: Count
    last_error: str | None
    next_attempt_at: SpelledInstant | None
    created_at: SpelledInstant
    completed_at: SpelledInstant | None
    kind: KindWord
    description: str | None
    reference: str | None
    metadata: dict[str, str] | None
    not_before: SpelledInstant | None
    reverses: SpelledId | None
    reversed_amount: MovedCents | None
    bulk_id: SpelledId | None

    @classmethod
    def of(cls, transfer: Transfer) -> "JobOut":
        """Show a transfer."""
        return cls(**resource_of(transfer))


POSTED: dict[str, Any] = {
    "job_id": AN_ID,
    "status": "posted",
    "source_user_id": "1",
    "destination_user_id": "2",
    "amount": 1003,
    "reason": None,
    "attempts": 1,
    "last_error": None,
    "next_attempt_at": None,
    "created_at": AN_INSTANT,
    "completed_at": "2026-11-23T14:47:38.163709Z",
    "kind": "transfer",
    "description": "rent for November",
    "reference": "INV-2026-118",
    "metadata": {"flat": "4b"},
    "not_before": None,
    "reverses": None,
    "reversed_amount": None,
    "bulk_id": None,
}
_CANCELED = POSTED | {"status": "canceled", "attempts": 0, "not_before": "2026-12-01T08:00:00.000000Z"}
_job = partial(Operation, tag="Jobs", who=Who.USER_OR_ADMIN)

OPERATIONS = {
    "jobs.job": _job(Answer(JobOut, example=POSTED), query=WaitQuery, problems=("job_not_found",)),
    # Forbidden: to the payee.
    "jobs.cancel": _job(Answer(JobOut, example=_CANCELED), problems=("forbidden", "job_not_found", "not_cancelable")),
}
