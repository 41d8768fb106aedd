"""Sending transfers by the thousand."""

from api.calls.call import Call
from api.calls.problems import ApiError
from api.contract.bulks import BulkBody
from api.services import Services
from models.ledger.attempts import Due
from models.ledger.bulks import MAX_ATOMIC_ITEMS, BulkAcceptance, BulkItem, BulkOrder
from models.ledger.transfer import MAX_CENTS
from observe import logs, metrics


def read(body: BulkBody, user_id: int, idempotency_key: str | None, call: Call) -> BulkOrder:
    """Make an order of what somebody sends.

    Raises:
        ApiError: ``self_transfer_invalid``, with the index of the item to blame; ``balance_overflow``: no wallet
            can hold what they come to; ``bad_input``: too many for an atomic one.
    """
    items = [BulkItem(each.destination_user_id, each.amount, each.details) for each in body.transfers]
    if body.atomic and len(items) > MAX_ATOMIC_ITEMS:
        raise ApiError("bad_input", f"body: transfers: an atomic bulk has {MAX_ATOMIC_ITEMS} at most")
    for index, item in enumerate(items):
        if item.destination == user_id:
            raise ApiError("self_transfer_invalid", f"transfers.{index}: Money cannot be transferred to oneself.")
    order = BulkOrder(
        user_id=user_id,
        items=items,
        is_atomic=body.atomic,
        idempotency_key=idempotency_key,
        trace=call.trace.traceparent,
    )
    if order.amount_cents > MAX_CENTS:
        raise ApiError("balance_overflow", "Together they are more than a wallet can hold, 2^63-1 cents.")
    return order


def send(services: Services, call: Call, order: BulkOrder) -> BulkAcceptance:
    """Record a bulk that somebody calls for, and have its jobs put on their way.

    Raises:
        models.errors.WalletServiceError: as :meth:`models.ledger.bulks.Bulks.accept`.
    """
    acceptance = services.bulks.accept(order)
    logs.bind(bulk_id=str(acceptance.bulk_id))
    if acceptance.replayed:
        call.tell("Idempotency-Replayed", "true")
    else:
        call.placed = acceptance.transfer_ids[0]
        put_on(services, order, acceptance)
    return acceptance


def put_on(services: Services, order: BulkOrder, acceptance: BulkAcceptance) -> None:
    """Count what was accepted, and have its jobs put on their way.

    It is for after the commit, and if it fails no harm is done, as with any other transfer.
    """
    metrics.transfers["transfer", "accepted"].inc(len(order.items))
    services.way_on.put_all_on(
        [
            Due(transfer_id, order.user_id, item.destination, item.amount_cents, order.trace)
            for transfer_id, item in zip(acceptance.transfer_ids, order.items, strict=True)
        ]
    )
