"""Moving money: a call becomes an order, and its answer says whether it was one before."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from api.calls.call import Call
from api.calls.problems import ApiError
from api.services import Services
from models.ledger.attempts import Due
from models.ledger.transfer import NO_DETAILS, Acceptance, Details, Kind, Order, Receipt
from observe import logs


class Terms(NamedTuple):
    """Who moves how much; ``idempotency_key``: what the caller calls it, if that is not to happen twice.

    ``details``: what else there is to say of it.
    """

    user_id: int
    amount_cents: int
    idempotency_key: str | None
    details: Details = NO_DETAILS


class ReversalTerms(NamedTuple):
    """What is given back, and how much of it in cents (``REST_CENTS``: all that is left); the rest as in Terms."""

    original_id: int
    amount_cents: int
    idempotency_key: str | None
    details: Details = NO_DETAILS


# What gives back a transfer of a kind.
_REVERSED = {
    Kind.TRANSFER: Kind.TRANSFER,
    Kind.DEPOSIT: Kind.WITHDRAWAL,
    Kind.WITHDRAWAL: Kind.DEPOSIT,
}


def deposit(services: Services, call: Call, terms: Terms) -> Receipt:
    """Credit the user's wallet; open it if there is none.

    Raises:
        models.errors.WalletServiceError: as :meth:`models.ledger.orders.Orders.execute`.
    """
    return _execute(services, call, _order("deposit/v1", Kind.DEPOSIT, terms, call, (None, terms.user_id)))


def withdraw(services: Services, call: Call, terms: Terms) -> Receipt:
    """Debit the user's wallet; raises as :func:`deposit`."""
    return _execute(services, call, _order("withdraw/v1", Kind.WITHDRAWAL, terms, call, (terms.user_id, None)))


def transfer_now(services: Services, call: Call, terms: Terms, destination: int) -> Receipt:
    """Move money to another user's wallet before this returns; raises as :func:`deposit`."""
    order = _order("transfer/v1", Kind.TRANSFER, terms, call, (terms.user_id, destination))
    return _execute(services, call, order)


def transfer_later(
    services: Services, call: Call, terms: Terms, destination: int, not_before: datetime | None = None
) -> Acceptance:
    """Record a transfer, and have its job put on the queue; or, if it is planned for later, shown until then.

    Raises:
        models.errors.WalletServiceError: as :meth:`models.ledger.orders.Orders.accept`.
    """
    order = _order("transfer/v2", Kind.TRANSFER, terms, call, (terms.user_id, destination))
    if not_before is not None:
        order = replace(order, not_before=not_before)
    acceptance = services.orders.accept(order)
    _note(call, acceptance)
    logs.bind(job_id=str(acceptance.transfer_id))
    if not acceptance.replayed:
        # After the commit, and if it fails no harm is done: the transfer is durable and the relay will find it.
        due = Due(acceptance.transfer_id, order.source, order.destination, order.amount_cents, order.trace)
        if not_before is not None and not_before > datetime.now(UTC):
            services.way_on.show_planned(due, not_before)
        else:
            services.way_on.put_on(due)
    return acceptance


def reverse(services: Services, call: Call, terms: ReversalTerms, *, caller: int | None) -> Receipt:
    """Give back a transfer, or a part of it, before this returns.

    Args:
        services: of this process.
        call: the call.
        terms: what, and how much.
        caller: the user who asks; None: an administrator.

    Raises:
        TransferNotFound: there is none, or he is not a party to it.
        ApiError: ``forbidden``: it was not he who was paid.
        models.errors.WalletServiceError: as :func:`deposit`.
    """
    original = services.history.get_transfer(terms.original_id, seen_by=caller)
    if caller is not None and (original.kind is not Kind.TRANSFER or caller != original.destination):
        raise ApiError("forbidden", "Only who was paid by another user may give it back, or an administrator.")
    order = Order(
        call="transfers/reverse/v1",
        kind=_REVERSED[original.kind],
        source=original.destination,
        destination=original.source,
        amount_cents=terms.amount_cents,
        idempotency_key=terms.idempotency_key,
        trace=call.trace.traceparent,
        details=terms.details,
        reverses=original.id,
        # What was frozen is frozen for users; an administrator need not let the money go to send it back.
        by_administrator=caller is None,
    )
    return _execute(services, call, order)


def _order(name: str, kind: Kind, terms: Terms, call: Call, parties: tuple[int | None, int | None]) -> Order:
    source, destination = parties
    return Order(
        call=name,
        kind=kind,
        source=source,
        destination=destination,
        amount_cents=terms.amount_cents,
        idempotency_key=terms.idempotency_key,
        trace=call.trace.traceparent,
        details=terms.details,
    )


def _execute(services: Services, call: Call, order: Order) -> Receipt:
    receipt = services.orders.execute(order)
    _note(call, receipt)
    return receipt


def _note(call: Call, placed: Receipt | Acceptance) -> None:
    """Note that the books have this call's transfer, and say so if they had it before."""
    call.placed = placed.transfer_id
    if placed.replayed:
        call.tell("Idempotency-Replayed", "true")
