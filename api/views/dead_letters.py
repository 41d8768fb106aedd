"""Dead letters, for administrators."""

from flask import Blueprint, request

from api.access.administrators import acting, require_admin
from api.contract.dead_letters import DeadLettersOut, RequeuedAllOut, RequeuedOut
from api.contract.fields import PageQuery
from api.contract.jobs import JobOut
from api.contract.validation import answers, read_query, refuse_query
from api.running import services
from api.settings import current_settings
from api.views.jobs import read_job_id
from models.actions.record import ALL
from models.ledger.transfer import MAX_ID

blueprint = Blueprint("dead_letters", __name__)


@blueprint.get("/api/dead-letters/v1")
@answers
def dead_letters() -> DeadLettersOut:
    """Return a page of dead letters, newest first."""
    require_admin()
    query = read_query(request.environ, PageQuery)
    page = services().dead_letters.get_page(size=query.page_size, before_id=query.cursor or MAX_ID)
    return DeadLettersOut(
        dead_letters=[JobOut.of(transfer) for transfer in page.transfers],
        page_size=query.page_size,
        has_more=page.next_id is not None,
        next_cursor=page.next_id,
    )


@blueprint.post("/api/dead-letters/v1/<job_id>/requeue")
@answers
def requeue(job_id: str) -> RequeuedOut:
    """Put one dead letter back with all its attempts; one that is not dead is left as it is."""
    with acting("dead_letter.requeue", on=job_id) as act:
        refuse_query(request.environ)
        transfer, requeued = services().dead_letters.requeue(read_job_id(job_id), by=_administrator())
        act.note(changed=requeued)
    return RequeuedOut(requeued=requeued, job=JobOut.of(transfer))


@blueprint.post("/api/dead-letters/v1/requeue")
@answers
def requeue_all() -> RequeuedAllOut:
    """Put all dead letters back."""
    with acting("dead_letter.requeue_all", on=ALL) as act:
        refuse_query(request.environ)
        requeued = services().dead_letters.requeue_all(by=_administrator())
        act.note(changed=requeued > 0)
    return RequeuedAllOut(requeued=requeued)


def _administrator() -> str:
    return current_settings().admin_user
