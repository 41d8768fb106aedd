"""Transfers to another user: v1 waits until the money has moved, v2 answers once the transfer is durable."""

from http import HTTPStatus
from typing import Any, TypeVar

from flask import Blueprint, request

from api.access.administrators import acting_or_user
from api.actions import orders
from api.actions.orders import ReversalTerms, Terms
from api.calls.problems import RETRY_AFTER_S
from api.contract.transfers import AcceptedOut, LaterTransferBody, ReversalBody, TransferBody, TransferOut
from api.contract.validation import answers, read_body, read_idempotency_key, read_optional_body, refuse_query
from api.direct import Answer, directly
from api.edge.edge import call_of
from api.running import services
from api.services import Services
from api.views.jobs import read_job_id

blueprint = Blueprint("transfers", __name__)

Body = TypeVar("Body", bound=TransferBody)


@blueprint.post("/api/transfer/v1")
@directly
def transfer_now(services: Services, environ: dict[str, Any]) -> Answer:
    """Move money before answering."""
    terms, body = _read(services, environ, TransferBody)
    receipt = orders.transfer_now(services, call_of(environ), terms, body.destination_user_id)
    return Answer.of(TransferOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id))


@blueprint.post("/api/transfer/v2")
@directly
def transfer_later(services: Services, environ: dict[str, Any]) -> Answer:
    """Record the transfer, put its job on the queue, and answer with where to follow it."""
    call = call_of(environ)
    terms, body = _read(services, environ, LaterTransferBody)
    acceptance = orders.transfer_later(services, call, terms, body.destination_user_id, body.not_before)
    url = f"{environ['SCRIPT_NAME']}/api/jobs/v1/{acceptance.transfer_id}"
    call.tell("Location", url)
    call.tell("Retry-After", str(RETRY_AFTER_S))
    return Answer.of(AcceptedOut(job_id=acceptance.transfer_id, status_url=url), HTTPStatus.ACCEPTED)


@blueprint.post("/api/transfers/v1/<job_id>/reverse")
@answers
def reverse(job_id: str) -> TransferOut:
    """Give back what a transfer has paid: all that is left of it, or a part.

    Who was paid may, and an administrator, who may reverse deposits and withdrawals, too. The balance is that of the
    wallet that gives, or that gets a withdrawal back.
    """
    environ = request.environ
    with acting_or_user("transfer.reverse", on=job_id) as caller:
        refuse_query(environ)
        body = read_optional_body(environ, ReversalBody, most_bytes=services().max_body_bytes)
        terms = ReversalTerms(read_job_id(job_id), body.amount, read_idempotency_key(environ), body.details)
        receipt = orders.reverse(services(), call_of(environ), terms, caller=caller)
    return TransferOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id)


def _read(services: Services, environ: dict[str, Any], model: type[Body]) -> tuple[Terms, Body]:
    """Read on which terms, and what else there is."""
    user_id = services.identity.require_user(call_of(environ))
    refuse_query(environ)
    body = read_body(environ, model, most_bytes=services.max_body_bytes)
    return Terms(user_id, body.amount, read_idempotency_key(environ), body.details), body
