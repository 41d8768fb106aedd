"""Transfers by the thousand, and how they stand together."""

from pydantic import Field

from api.contract.fields import Count, IdOut, Incoming, Instant, MovedCents, Outgoing, WaitQuery
from api.contract.operations import AN_ID, AN_INSTANT, Answer, Operation, Who
from api.contract.transfers import A_PAYMENT, TransferBody
from models.ledger.bulks import MAX_ATOMIC_ITEMS, MAX_ITEMS, Bulk


class BulkBody(Incoming):
    """Transfers to send at once, and whether all of them are posted or none is."""

    transfers: list[TransferBody] = Field(min_length=1, max_length=MAX_ITEMS)
    atomic: bool = Field(default=False, strict=True, description=f"With it, {MAX_ATOMIC_ITEMS} transfers at most.")


class BulkAcceptedOut(Outgoing):
    """Transfers that are durable, all of them, and will be posted or rejected by jobs."""

    bulk_id: IdOut
    count: Count
    status_url: str


class BulkOut(Outgoing):
    """How a bulk stands: how many of its transfers are pending, and how many have ended how."""

    bulk_id: IdOut
    count: Count
    amount: MovedCents
    atomic: bool
    pending: Count
    posted: Count
    rejected: Count
    failed: Count
    canceled: Count
    created_at: Instant
    completed_at: Instant | None

    @classmethod
    def of(cls, bulk: Bulk) -> "BulkOut":
        """Show a bulk."""
        return cls(
            bulk_id=bulk.id,
            count=bulk.count,
            amount=bulk.amount_cents,
            atomic=bulk.is_atomic,
            pending=bulk.pending,
            posted=bulk.posted,
            rejected=bulk.rejected,
            failed=bulk.failed,
            canceled=bulk.canceled,
            created_at=bulk.created_at,
            completed_at=bulk.completed_at,
        )


OPERATIONS = {
    "bulks.send": Operation(
        Answer(
            BulkAcceptedOut,
            status=202,
            example={"bulk_id": AN_ID, "count": 2, "status_url": f"/api/bulks/v1/{AN_ID}"},
            headers=("Location", "Retry-After"),
            links=("bulk",),
        ),
        tag="Money",
        body=BulkBody,
        body_example={"transfers": [A_PAYMENT, {"destination_user_id": 3, "amount": 500}], "atomic": False},
        moves_money=True,
        problems=("wallet_not_found", "self_transfer_invalid", "balance_overflow", "invalid_amount"),
    ),
    "bulks.bulk": Operation(
        Answer(
            BulkOut,
            example={
                "bulk_id": AN_ID,
                "count": 2,
                "amount": 1503,
                "atomic": False,
                "pending": 1,
                "posted": 1,
                "rejected": 0,
                "failed": 0,
                "canceled": 0,
                "created_at": AN_INSTANT,
                "completed_at": None,
            },
        ),
        tag="Jobs",
        who=Who.USER_OR_ADMIN,
        query=WaitQuery,
        problems=("bulk_not_found",),
    ),
}
