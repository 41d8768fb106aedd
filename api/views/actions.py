"""What administrators did, for administrators."""

from flask import Blueprint, request

from api.access.administrators import require_admin
from api.contract.schemas import ActionOut, ActionsOut, ActionsQuery
from api.contract.validation import answers, read_query
from api.running import services
from models.actions import record
from models.ledger.transfer import MAX_ID

blueprint = Blueprint("actions", __name__)


@blueprint.get("/api/actions/v1")
@answers
def actions() -> ActionsOut:
    """Return a page of what administrators did, newest first."""
    require_admin()
    query = read_query(request.environ, ActionsQuery)
    before_id = int(query.cursor) if query.cursor else MAX_ID
    page = record.get_page(services().engine, size=query.page_size, before_id=before_id)
    return ActionsOut(
        actions=[ActionOut.of(action) for action in page.actions],
        page_size=query.page_size,
        has_more=page.next_id is not None,
        next_cursor=None if page.next_id is None else str(page.next_id),
    )
