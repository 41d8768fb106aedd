"""What administrators did, for administrators."""

from flask import Blueprint, request

from api.access.administrators import require_admin
from api.contract.actions import ActionOut, ActionsOut
from api.contract.fields import PageQuery
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
    query = read_query(request.environ, PageQuery)
    page = record.get_page(services().engine, size=query.page_size, before_id=query.cursor or MAX_ID)
    return ActionsOut(
        actions=[ActionOut.of(action) for action in page.actions],
        page_size=query.page_size,
        has_more=page.next_id is not None,
        next_cursor=page.next_id,
    )
