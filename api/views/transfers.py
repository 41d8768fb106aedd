"""Transfers to another user: v1 waits until the money has moved, v2 answers once the transfer is durable."""

import structlog
from flask import Blueprint, Response, request

from api.access.identity import require_user
from api.contract.schemas import AcceptedOut, NoQuery, TransferBody, TransferOut
from api.contract.validation import json_response, read_body, read_idempotency_key, read_query
from api.edge import tracing
from api.edge.edge import add_header
from api.edge.errors import RETRY_AFTER_S
from api.services import services
from api.views.replay import marked
from models.ledger.transfer import Kind, Order

blueprint = Blueprint("transfers", __name__)


@blueprint.post("/api/transfer/v1")
def transfer_now() -> Response:
    """Move money before answering."""
    receipt = services().orders.execute(_read_order("transfer/v1"))
    answer = TransferOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id)
    return marked(json_response(answer), replayed=receipt.replayed)


@blueprint.post("/api/transfer/v2")
def transfer_later() -> Response:
    """Record the transfer, put its job on the queue, and answer with where to follow it."""
    order = _read_order("transfer/v2")
    acceptance = services().orders.accept(order)
    structlog.contextvars.bind_contextvars(job_id=str(acceptance.transfer_id))
    if not acceptance.replayed:
        # After the commit, and if it fails no harm is done: the transfer is durable and the relay will find it.
        services().queue.enqueue_soon(acceptance.transfer_id, trace=order.trace)
    url = f"/api/jobs/v1/{acceptance.transfer_id}"
    response = json_response(AcceptedOut(job_id=acceptance.transfer_id, status_url=url), 202)
    # By the outermost layer, which writes it as it is: Werkzeug would take it apart, and put it together again.
    add_header(request.environ, "Location", url)
    add_header(request.environ, "Retry-After", str(RETRY_AFTER_S))
    return marked(response, replayed=acceptance.replayed)


def _read_order(call: str) -> Order:
    user_id = require_user()
    read_query(NoQuery)
    body = read_body(TransferBody)
    return Order(
        call=call,
        kind=Kind.TRANSFER,
        source=user_id,
        destination=body.destination_user_id,
        amount_cents=body.amount,
        idempotency_key=read_idempotency_key(),
        trace=tracing.current().traceparent,
    )
