"""Events: what has happened to transfers."""

from typing import Annotated, TypeAlias

from pydantic import Field, PlainSerializer, WithJsonSchema

from api.contract.fields import Count, Incoming, IntIn, Outgoing, PageSize, SpelledId, SpelledInstant, WaitS, words
from api.contract.jobs import POSTED, JobOut
from api.contract.operations import Answer, Operation, Who
from jobs.event_json import as_json
from models.ledger.events import REQUEUED, Event
from models.ledger.transfer import MAX_ID, Status

EVENT_TYPES = [f"transfer.{each}" for each in (*(each.value for each in Status if each.is_final), REQUEUED)]

EventNumberIn: TypeAlias = Annotated[
    IntIn,
    Field(ge=0, le=MAX_ID),
    WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_ID}),
]
# An event's, or 0 before all of them.
EventNumberOut: TypeAlias = Annotated[
    int, PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"})
]


class EventsQuery(Incoming):
    """Which events: those after one, how many, and how many seconds to wait for the first."""

    after: EventNumberIn | None = Field(
        default=None, description="An `event_id`, or `next_after`. Without it, from the oldest one kept."
    )
    page_size: PageSize = 30
    wait: WaitS = 0.0


class EventOut(Outgoing):
    """Something that has happened to a transfer, and the transfer as it was then."""

    event_id: SpelledId
    type: Annotated[str, words(EVENT_TYPES)]
    created_at: SpelledInstant
    data: JobOut

    @classmethod
    def of(cls, event: Event) -> "EventOut":
        """Show an event."""
        return cls(**as_json(event))


class EventsOut(Outgoing):
    """Events, oldest first. ``missed``: how many between ``after`` and the first of these are kept no more."""

    events: list[EventOut]
    next_after: EventNumberOut
    missed: Count


_AN_EVENT = {"event_id": "4711", "type": "transfer.posted", "created_at": POSTED["completed_at"], "data": POSTED}

OPERATIONS = {
    "events.events": Operation(
        Answer(EventsOut, example={"events": [_AN_EVENT], "next_after": "4711", "missed": 0}, links=("next_events",)),
        tag="Administration",
        who=Who.ADMIN,
        query=EventsQuery,
    ),
}
