"""Transfers to another user, at once or by a job, and what gives one back."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from api.contract.details import Said
from api.contract.fields import AmountCents, IdIn, IdOut, Outgoing
from api.contract.instants import InstantIn
from api.contract.operations import AN_ID, Answer, Operation, Who
from api.contract.wallets import AmountBody, MoneyOut
from models.ledger.transfer import REST_CENTS

# How far ahead a transfer may be planned: a leap year.
MAX_DAYS_AHEAD = 366


def _check_plan(instant: datetime) -> datetime:
    if instant - datetime.now(UTC) > timedelta(days=MAX_DAYS_AHEAD):
        raise PydanticCustomError("too_late", f"Input should be at most {MAX_DAYS_AHEAD} days ahead")
    return instant


PlannedFor: TypeAlias = Annotated[
    InstantIn,
    AfterValidator(_check_plan),
    Field(
        description=f"When to try it: RFC 3339, at most {MAX_DAYS_AHEAD} days ahead. Funds are looked at then. What has"
        " passed is at once."
    ),
]


class TransferBody(AmountBody):
    """Whom to pay, how much, in cents, and what there is to say of it."""

    destination_user_id: IdIn


class LaterTransferBody(TransferBody):
    """Whom to pay, how much, in cents, what there is to say of it, and before when not to."""

    not_before: PlannedFor | None = None


class ReversalBody(Said):
    """How much to give back, in cents, and what there is to say of it. Without an amount all that is left."""

    # By a factory: what stands for all that is left is no amount, and not to be told as one.
    amount: AmountCents = Field(default_factory=lambda: REST_CENTS)


class TransferOut(MoneyOut):
    """A transfer that was waited for: the money has moved."""

    success: Literal[True] = True


class AcceptedOut(Outgoing):
    """A transfer that is durable and will be posted or rejected by a job."""

    success: Literal[True] = True
    job_id: IdOut
    status: Literal["pending"] = "pending"
    status_url: str


A_PAYMENT = {
    "destination_user_id": 2,
    "amount": 1003,
    "description": "rent for November",
    "reference": "INV-2026-118",
    "metadata": {"flat": "4b"},
}
_move = partial(Operation, tag="Money", moves_money=True)
_PAYING = ("wallet_not_found", "wallet_frozen", "balance_insufficient", "self_transfer_invalid")

OPERATIONS = {
    "transfers.transfer_now": _move(
        Answer(TransferOut, example={"balance": 8997, "transfer_id": AN_ID, "success": True}, links=("transfer",)),
        body=TransferBody,
        body_example=A_PAYMENT,
        problems=(*_PAYING, "balance_overflow"),
    ),
    "transfers.transfer_later": _move(
        Answer(
            AcceptedOut,
            status=202,
            example={"success": True, "job_id": AN_ID, "status": "pending", "status_url": f"/api/jobs/v1/{AN_ID}"},
            headers=("Location", "Retry-After"),
            links=("job", "cancel"),
        ),
        body=LaterTransferBody,
        body_example=A_PAYMENT,
        problems=_PAYING,
    ),
    "transfers.reverse": _move(
        Answer(TransferOut, example={"balance": 503, "transfer_id": AN_ID, "success": True}, links=("transfer",)),
        who=Who.USER_OR_ADMIN,
        body=ReversalBody,
        body_example={"amount": 500, "description": "half of it back"},
        is_body_required=False,
        problems=(
            "forbidden",
            "job_not_found",
            "wallet_not_found",
            "wallet_frozen",
            "balance_insufficient",
            "balance_overflow",
            "not_reversible",
            "reversal_exceeds",
        ),
    ),
}
