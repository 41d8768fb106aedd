"""Following a transfer of any kind by its job id, and calling it off."""

import re
from functools import partial

from flask import Blueprint, request

from api.access.administrators import acting_or_user
from api.actions import canceling
from api.contract.fields import WaitQuery
from api.contract.jobs import JobOut
from api.contract.validation import answers, read_query, refuse_query
from api.edge.edge import call_of
from api.running import services
from models.errors import TransferNotFound
from models.ledger.transfer import MAX_ID

blueprint = Blueprint("jobs", __name__)

_ID = re.compile(r"[0-9]{1,19}")


@blueprint.get("/api/jobs/v1/<job_id>")
@answers
def job(job_id: str) -> JobOut:
    """Return how a transfer stands, waiting for its end if asked to."""
    caller = services().identity.require_user_or_admin(call_of(request.environ))
    query = read_query(request.environ, WaitQuery)
    transfer_id = read_job_id(job_id)
    look = partial(services().history.get_transfer, transfer_id, seen_by=caller)
    room = services().waiting
    return JobOut.of(room.look_until(lambda transfer: transfer.status.is_final, look, transfer_id, query.wait))


@blueprint.post("/api/jobs/v1/<job_id>/cancel")
@answers
def cancel(job_id: str) -> JobOut:
    """Call off a pending transfer that is not being tried; one that was called off before stays so."""
    with acting_or_user("job.cancel", on=job_id) as caller:
        refuse_query(request.environ)
        canceled = canceling.cancel(services(), read_job_id(job_id), by=caller)
    return JobOut.of(canceled)


def read_job_id(job_id: str) -> int:
    """Read a job id from a path.

    Raises:
        TransferNotFound: no job can have it.
    """
    return read_id(job_id, TransferNotFound(0))


def read_id(given: str, missing: Exception) -> int:
    """Read an id from a path, or raise what says that nothing has it."""
    found = int(given) if _ID.fullmatch(given) else 0
    if not 0 < found <= MAX_ID:
        raise missing
    return found
