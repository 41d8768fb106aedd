"""Transfers as a resource: one by its id, or those that are found by what is known of them."""

from flask import Blueprint, request

from api.actions.finding import find
from api.contract.finding import TransfersOut, TransfersQuery
from api.contract.jobs import JobOut
from api.contract.validation import answers, read_query, refuse_query
from api.edge.edge import call_of
from api.running import services
from api.views.jobs import read_job_id

blueprint = Blueprint("finding", __name__)


@blueprint.get("/api/transfers/v1")
@answers
def transfers() -> TransfersOut:
    """Find transfers, one's own or everyone's, newest first."""
    caller = services().identity.require_user_or_admin(call_of(request.environ))
    query = read_query(request.environ, TransfersQuery)
    page = find(services(), caller, query)
    return TransfersOut(
        transfers=[JobOut.of(transfer) for transfer in page.transfers],
        page_size=query.page_size,
        has_more=page.end is not None,
        next_cursor=page.end,
    )


@blueprint.get("/api/transfers/v1/<job_id>")
@answers
def transfer(job_id: str) -> JobOut:
    """Return a transfer of any kind, as its job is."""
    caller = services().identity.require_user_or_admin(call_of(request.environ))
    refuse_query(request.environ)
    return JobOut.of(services().history.get_transfer(read_job_id(job_id), seen_by=caller))
