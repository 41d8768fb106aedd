"""Fan-out: of each event that an endpoint wants, one delivery, planned exactly once and in the order of the feed.

Each endpoint has its own place in the feed of events (``upto``), and what lies beyond it is planned only as it is soon
to be sent: :data:`AHEAD` that were never tried. So a receiver that is down, or was disabled for a week, costs a few
hundred rows instead of one for each event; the rest waits in the feed, which has it anyway. An endpoint that was
disabled goes on where it was. To replay is to go back in the feed.

Events are numbered after their commit (models/ledger/events.py), so nothing is planned before it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, text

from models.database.engine import fetch_all, transaction
from models.ledger.events import ToldEvent, find_told
from models.webhooks.endpoints import EVERY, wants

# Planned and not tried yet, of each endpoint, at most; fewer than a half are filled up.
AHEAD = 200
# Pending in all: what failed, and waits for its next attempt. Beyond that nothing new is planned.
MOST_PENDING = 10_000
# Events that are looked through at once for who does not want all of them.
SCANNED = 1_000

# Before the events are read: an endpoint that is made later has begun behind the last of them (endpoints.add).
_LOOK = text("""
SELECT w.id, w.upto, w.types, w.user_id, fresh.planned
FROM webhooks AS w CROSS JOIN event_head
CROSS JOIN LATERAL (
    SELECT count(*) AS planned FROM (
        SELECT FROM webhook_deliveries AS d
        WHERE d.webhook_id = w.id AND d.status = 'pending' AND d.attempts = 0 LIMIT :ahead
    ) AS few
) AS fresh
WHERE w.deleted_at IS NULL AND w.disabled_at IS NULL AND w.upto < event_head.last_event
    AND 2 * fresh.planned < :ahead AND NOT EXISTS (
        SELECT FROM webhook_deliveries AS d WHERE d.webhook_id = w.id AND d.status = 'pending' OFFSET :most
    )
ORDER BY w.id
""").bindparams(ahead=AHEAD, most=MOST_PENDING)
# Who has moved meanwhile (another process, a replay) is left as he is, and his deliveries with him. One that is there
# and has ended is sent again: its place in the feed was gone back to.
_PLAN = text("""
WITH moved AS (
    UPDATE webhooks AS w SET upto = each.reached
    FROM unnest(CAST(:ids AS bigint[]), CAST(:were AS bigint[]), CAST(:reached AS bigint[]))
        AS each (id, was, reached)
    WHERE w.id = each.id AND w.upto = each.was AND w.deleted_at IS NULL RETURNING w.id
)
INSERT INTO webhook_deliveries (webhook_id, event_id, type, created_at, next_attempt_at)
SELECT moved.id, each.event_id, each.type, each.told_at, now()
FROM unnest(
    CAST(:webhooks AS bigint[]), CAST(:events AS bigint[]), CAST(:types AS text[]), CAST(:told_at AS timestamptz[])
) AS each (webhook_id, event_id, type, told_at)
JOIN moved ON moved.id = each.webhook_id
ORDER BY each.event_id
ON CONFLICT (webhook_id, event_id) DO UPDATE SET status = 'pending', attempts = 0, ended_at = NULL,
    claims = webhook_deliveries.claims + 1, next_attempt_at = excluded.next_attempt_at
WHERE webhook_deliveries.status <> 'pending'
""")


class Planned(NamedTuple):
    """How many deliveries were planned; whether that was not all."""

    deliveries: int
    is_more: bool


class _Plan(NamedTuple):
    """What an endpoint is to be sent of some events, and up to which one that goes."""

    endpoint: Row[Any]
    wanted: list[ToldEvent]
    reached: int


def plan(engine: Engine) -> Planned:
    """Plan deliveries, a bounded amount. Several processes may, and be killed: each is planned once.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    endpoints = fetch_all(engine, _LOOK)
    if not endpoints:
        return Planned(0, is_more=False)
    plans = list(_plans(engine, endpoints))
    rows = [(each.endpoint.id, event) for each in plans for event in each.wanted]
    given = {
        "ids": [each.endpoint.id for each in plans],
        "were": [each.endpoint.upto for each in plans],
        "reached": [each.reached for each in plans],
        "webhooks": [webhook_id for webhook_id, _ in rows],
        "events": [event.event_id for _, event in rows],
        "types": [event.type for _, event in rows],
        "told_at": [event.told_at for _, event in rows],
    }
    with transaction(engine) as connection:
        connection.execute(_PLAN, given)
    return Planned(len(rows), is_more=True)


def _plans(engine: Engine, endpoints: Sequence[Row[Any]]) -> Iterator[_Plan]:
    """Read what each of them is behind with; who is at the same place shares the reading."""
    read: dict[tuple[int, int], tuple[list[ToldEvent], int]] = {}
    for endpoint in endpoints:
        room = AHEAD - endpoint.planned
        wants_all = EVERY in endpoint.types and endpoint.user_id is None
        place = (endpoint.upto, room if wants_all else SCANNED)
        if place not in read:
            read[place] = find_told(engine, after=place[0], limit=place[1])
        events, reached = read[place]
        wanted = [event for event in events if wants(endpoint, event)]
        if len(wanted) > room:
            wanted = wanted[:room]
            reached = wanted[-1].event_id
        yield _Plan(endpoint, wanted, max(reached, endpoint.upto))
