"""Transfers to another user: v1 waits until the money has moved, v2 answers once the transfer is durable."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint

from api.contract.schemas import AcceptedOut, NoQuery, TransferBody, TransferOut
from api.contract.validation import read_body, read_idempotency_key, read_query
from api.direct import Answer, directly
from api.edge import tracing
from api.edge.edge import add_header, mark_replayed
from api.edge.errors import RETRY_AFTER_S, note_placed
from api.services import Services
from models.ledger.transfer import Kind, Order
from observe import logs

blueprint = Blueprint("transfers", __name__)


@blueprint.post("/api/transfer/v1")
@directly
def transfer_now(services: Services, environ: dict[str, Any]) -> Answer:
    """Move money before answering."""
    receipt = services.orders.execute(_read_order(services, environ, "transfer/v1"))
    note_placed(environ, receipt.transfer_id)
    if receipt.replayed:
        mark_replayed(environ)
    return Answer.of(TransferOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id))


@blueprint.post("/api/transfer/v2")
@directly
def transfer_later(services: Services, environ: dict[str, Any]) -> Answer:
    """Record the transfer, put its job on the queue, and answer with where to follow it."""
    order = _read_order(services, environ, "transfer/v2")
    acceptance = services.orders.accept(order)
    note_placed(environ, acceptance.transfer_id)
    logs.bind(job_id=str(acceptance.transfer_id))
    if acceptance.replayed:
        mark_replayed(environ)
    else:
        # After the commit, and if it fails no harm is done: the transfer is durable and the relay will find it.
        services.queue.enqueue_soon(acceptance.transfer_id, trace=order.trace)
    url = f"{environ['SCRIPT_NAME']}/api/jobs/v1/{acceptance.transfer_id}"
    add_header(environ, "Location", url)
    add_header(environ, "Retry-After", str(RETRY_AFTER_S))
    return Answer.of(AcceptedOut(job_id=acceptance.transfer_id, status_url=url), HTTPStatus.ACCEPTED)


def _read_order(services: Services, environ: dict[str, Any], call: str) -> Order:
    user_id = services.identity.require_user(environ)
    read_query(environ, NoQuery)
    body = read_body(environ, TransferBody, most_bytes=services.max_body_bytes)
    return Order(
        call=call,
        kind=Kind.TRANSFER,
        source=user_id,
        destination=body.destination_user_id,
        amount_cents=body.amount,
        idempotency_key=read_idempotency_key(environ),
        trace=tracing.of(environ).traceparent,
    )
