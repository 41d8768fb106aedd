"""Events, for administrators."""

from flask import Blueprint, request

from api.access.administrators import require_admin
from api.actions.following import follow
from api.contract.events import EventOut, EventsOut, EventsQuery
from api.contract.validation import answers, read_query
from api.running import services

blueprint = Blueprint("events", __name__)


@blueprint.get("/api/events/v1")
@answers
def events() -> EventsOut:
    """Return what has happened to transfers after an event, oldest first, waiting for it if asked to."""
    require_admin()
    query = read_query(request.environ, EventsQuery)
    page = follow(services(), query.after, size=query.page_size, wait_s=query.wait)
    return EventsOut(
        events=[EventOut.of(event) for event in page.events], next_after=page.next_after, missed=page.missed
    )
