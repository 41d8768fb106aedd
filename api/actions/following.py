"""Following what happens to all transfers, from event to event."""

import time

from api.services import Services
from api.waiting import MAX_WAIT_S
from models.ledger import events
from models.ledger.events import EventPage
from observe import metrics


def follow(services: Services, after: int | None, *, size: int, wait_s: float) -> EventPage:
    """Return the events that follow one, waiting for the first of them if there is none yet.

    Args:
        services: of the process.
        after: the id of an event; None: the beginning of what is kept.
        size: events, at most.
        wait_s: seconds, at most :data:`MAX_WAIT_S`; 0 looks once. Who is ahead of all events, or has missed some, is
            told at once.

    Raises:
        Unavailable: the database cannot be reached.
    """
    deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
    room = services.waiting_for_events
    page = events.find_page(services.engine, after=after, limit=size)
    while not page.events and page.next_after == (after or 0) and time.monotonic() < deadline and room.is_open:
        if not room.wait(page.next_after, deadline - time.monotonic()):
            metrics.shed["waiting"].inc()
            break
        if room.is_open:  # or all who wait would look at once
            page = events.find_page(services.engine, after=after, limit=size)
    return page
