"""Dead letters, and what puts them back."""

from functools import partial

from api.contract.fields import Count, IdOut, Outgoing, PageQuery
from api.contract.jobs import POSTED, JobOut
from api.contract.operations import Answer, Operation, Who


class DeadLettersOut(Outgoing):
    """A page of dead letters, newest first."""

    dead_letters: list[JobOut]
    page_size: int
    has_more: bool
    next_cursor: IdOut | None


class RequeuedOut(Outgoing):
    """A transfer after it was asked to be put back; ``requeued``: whether it was this request that did it."""

    requeued: bool
    job: JobOut


class RequeuedAllOut(Outgoing):
    """How many dead letters were put back."""

    requeued: Count


_DEAD = POSTED | {"status": "failed", "reason": "attempts_exhausted", "attempts": 4, "last_error": "lock timeout"}
_A_PAGE = {"dead_letters": [_DEAD], "page_size": 30, "has_more": False, "next_cursor": None}
_PENDING = POSTED | {"status": "pending", "attempts": 0, "completed_at": None}
_row = partial(Operation, tag="Administration", who=Who.ADMIN)

OPERATIONS = {
    "dead_letters.dead_letters": _row(
        Answer(DeadLettersOut, example=_A_PAGE, links=("next_dead_letters", "requeue")), query=PageQuery
    ),
    "dead_letters.requeue": _row(
        Answer(RequeuedOut, example={"requeued": True, "job": _PENDING}), problems=("job_not_found",)
    ),
    "dead_letters.requeue_all": _row(Answer(RequeuedAllOut, example={"requeued": 3})),
}
