"""Following what happens to all transfers, from event to event."""

from api.services import Services
from models.ledger import events
from models.ledger.events import EventPage


def follow(services: Services, after: int | None, *, size: int, wait_s: float) -> EventPage:
    """Return the events that follow one, waiting for the first of them if there is none yet.

    Args:
        services: of the process.
        after: the id of an event; None: the beginning of what is kept.
        size: events, at most.
        wait_s: seconds, as :meth:`api.waiting.Room.look_until` has it. Who is ahead of all events, or has missed some,
            is told at once.

    Raises:
        Unavailable: the database cannot be reached.
    """
    return services.waiting_for_events.look_until(
        lambda page: bool(page.events) or page.next_after != (after or 0),
        lambda: events.find_page(services.engine, after=after, limit=size),
        after or 0,
        wait_s,
    )
