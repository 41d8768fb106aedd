"""Transfers by the thousand, and how they stand together."""

from functools import partial
from http import HTTPStatus

from flask import Blueprint, Response, request

from api.actions import bulks
from api.calls.problems import RETRY_AFTER_S
from api.contract.bulks import BulkAcceptedOut, BulkBody, BulkOut
from api.contract.fields import WaitQuery
from api.contract.validation import answers, json_response, read_body, read_idempotency_key, read_query, refuse_query
from api.edge.edge import call_of
from api.running import services
from api.services import BULK_PATH
from api.views.jobs import read_id
from models.errors import BulkNotFound

blueprint = Blueprint("bulks", __name__)


@blueprint.post(BULK_PATH)
def send() -> Response:
    """Record many transfers at once, all of them or none, and answer with where to follow them.

    What is wrong with an item is answered with its index, and nothing is recorded. Whether the money is enough is each
    transfer's own matter, when it is tried; of an atomic bulk all are posted, in one transaction, or all rejected.
    """
    call, environ = call_of(request.environ), request.environ
    user_id = services().identity.require_user(call)
    refuse_query(environ)
    key = read_idempotency_key(environ)
    with services().bulk_seats.taken():
        body = read_body(environ, BulkBody, most_bytes=services().max_bulk_bytes)
        acceptance = bulks.send(services(), call, bulks.read(body, user_id, key, call))
    url = f"{environ['SCRIPT_NAME']}/api/bulks/v1/{acceptance.bulk_id}"
    call.tell("Location", url)
    call.tell("Retry-After", str(RETRY_AFTER_S))
    answer = BulkAcceptedOut(bulk_id=acceptance.bulk_id, count=len(body.transfers), status_url=url)
    return json_response(answer, HTTPStatus.ACCEPTED)


@blueprint.get("/api/bulks/v1/<bulk_id>")
@answers
def bulk(bulk_id: str) -> BulkOut:
    """Return how many transfers of a bulk are pending, and how many have ended how, waiting for all if asked to."""
    caller = services().identity.require_user_or_admin(call_of(request.environ))
    query = read_query(request.environ, WaitQuery)
    found = read_id(bulk_id, BulkNotFound(0))
    look = partial(services().bulks.find, found, seen_by=caller)
    return BulkOut.of(services().waiting.look_until(lambda bulk: not bulk.pending, look, found, query.wait))
