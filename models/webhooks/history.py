"""What was sent to an endpoint, how it went, and sending it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine, text

from models.database.engine import fetch_all, transaction
from models.errors import EventNotFound, WebhookNotFound
from models.ledger.events import find_last, find_since, find_told
from models.webhooks.deliveries import Status
from models.webhooks.endpoints import get, wants

TEST = "webhook.test"

# Of each status a range of an index, and of these the newest.
_PAGE = text("""
SELECT found.* FROM unnest(CAST(:statuses AS text[])) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT event_id, number, type, status, created_at, next_attempt_at, ended_at, log FROM webhook_deliveries AS d
    WHERE d.webhook_id = :webhook_id AND d.status = wanted.status AND d.number < :before
    ORDER BY d.number DESC LIMIT :limit
) AS found
ORDER BY found.number DESC LIMIT :limit
""")
# One that is being sent, or is to be in a moment, is sent anyway. The row of the endpoint is held: were it deleted
# meanwhile, what was written for it would stay for ever.
_AGAIN = text("""
INSERT INTO webhook_deliveries (webhook_id, event_id, type, created_at, next_attempt_at)
SELECT id, :event_id, :type, :created_at, now() FROM webhooks
WHERE id = :webhook_id AND deleted_at IS NULL FOR SHARE
ON CONFLICT (webhook_id, event_id) DO UPDATE SET status = 'pending', attempts = 0, ended_at = NULL,
    claims = webhook_deliveries.claims + 1, next_attempt_at = excluded.next_attempt_at
WHERE webhook_deliveries.held_until IS NULL
""")
_AGAIN_TEST = text("""
UPDATE webhook_deliveries SET status = 'pending', attempts = 0, ended_at = NULL, claims = claims + 1,
    next_attempt_at = now()
WHERE webhook_id = :webhook_id AND event_id = :event_id AND body IS NOT NULL AND held_until IS NULL
RETURNING event_id
""")
_GO_BACK = text("UPDATE webhooks SET upto = least(upto, :after) WHERE id = :id AND deleted_at IS NULL")
_ADD_TEST = text("""
INSERT INTO webhook_deliveries (webhook_id, event_id, type, body, created_at, next_attempt_at)
SELECT id, :event_id, :type, :body, :created_at, now() FROM webhooks
WHERE id = :webhook_id AND deleted_at IS NULL FOR SHARE
RETURNING webhook_id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event on its way to one receiver, or how that ended. ``log``: its last attempts, oldest first."""

    event_id: int
    type: str
    status: Status
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    log: Sequence[dict[str, Any]]


class Page(NamedTuple):
    """Some deliveries, newest first, and below which number the next page begins; None: there is none."""

    deliveries: list[Delivery]
    next_before: int | None


def find_page(engine: Engine, webhook_id: int, *, status: Status | None, before: int, limit: int) -> Page:
    """Return a page of an endpoint's deliveries, newest first.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached.
    """
    get(engine, webhook_id)
    given = {
        "webhook_id": webhook_id,
        "statuses": [each.value for each in Status] if status is None else [status.value],
        "before": before,
        "limit": limit + 1,
    }
    rows = fetch_all(engine, _PAGE.bindparams(**given))
    deliveries = [
        Delivery(
            event_id=row.event_id,
            type=row.type,
            status=Status(row.status),
            created_at=row.created_at,
            next_attempt_at=row.next_attempt_at if row.status == Status.PENDING else None,
            ended_at=row.ended_at,
            log=row.log,
        )
        for row in rows[:limit]
    ]
    return Page(deliveries, rows[limit - 1].number if len(rows) > limit else None)


def replay(engine: Engine, webhook_id: int, event_id: int) -> None:
    """Send one event again, whether it has arrived or not; one that is on its way is not sent twice for that.

    Raises:
        WebhookNotFound: there is none of this id.
        EventNotFound: there is no such event, it is no longer kept, or the endpoint is not told of it.
        Unavailable: the database cannot be reached, or has not done it.
    """
    endpoint = get(engine, webhook_id)
    given: dict[str, Any] = {"webhook_id": webhook_id, "event_id": event_id}
    events = find_told(engine, after=event_id - 1, limit=1)[0] if event_id <= find_last(engine) else []
    with transaction(engine) as connection:
        if events and events[0].event_id == event_id and wants(endpoint, events[0]):
            connection.execute(_AGAIN, given | {"type": events[0].type, "created_at": events[0].told_at})
        elif connection.execute(_AGAIN_TEST, given).first() is None:
            raise EventNotFound(event_id)


def replay_since(engine: Engine, webhook_id: int, instant: datetime) -> int:
    """Send again all that has happened since, of what is kept; return after which event that begins.

    It takes what is planned back to there (fan_out.py), so it is done bit by bit, and what has happened since the call
    comes behind it. What is on its way is not sent twice for that; asked for once more, it begins anew.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached, or has not done it.
    """
    get(engine, webhook_id)
    after = find_since(engine, instant)
    with transaction(engine) as connection:
        connection.execute(_GO_BACK, {"id": webhook_id, "after": after})
    return after


def add_test(engine: Engine, webhook_id: int, event_id: int, *, body: str, created_at: datetime) -> None:
    """Send something to an endpoint that has not happened, whether it is disabled or not. It is tried once.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached, or has not done it.
    """
    given = {"webhook_id": webhook_id, "event_id": event_id, "type": TEST, "body": body, "created_at": created_at}
    with transaction(engine) as connection:
        if connection.execute(_ADD_TEST, given).first() is None:
            raise WebhookNotFound(webhook_id)
