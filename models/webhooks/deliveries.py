"""Deliveries on their way: held while they are on the queue, claimed by who sends them, told of by how they ended.

All that is true of them is here. The queue may be emptied and who sends may be killed at any moment: a hold ends by
itself, by PostgreSQL's clock, and then the delivery is put on the queue again. Who has claimed one may tell of it only
as long as nobody else has (``claims``).

How many are held at a time is bounded here, for all processes together, since each may cost who sends it all of an
attempt's time: :data:`ALL_HELD`, shared evenly by the endpoints that something is due for, :data:`MOST_HELD` each at
most; and one of an endpoint that fails. That is tried for the first time with what is new only now and then, and again
with what has failed when that is due.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Engine, text

from models.database.engine import transaction, write_alone

# Of all endpoints at a time, as long as none of them has less than one; and of one of them. A process that sends has
# seats for more than that (jobs/rq/webhook_worker.py), so ten receivers that hang leave seats for the eleventh.
ALL_HELD = 100
MOST_HELD = 8
# What was put on the queue and not claimed for so long is put there again, for it may have been lost; so is what was
# claimed and not told of, after longer than an attempt can take (jobs/webhooks/posting.py) with its telling.
QUEUED_S = 5.0
CLAIMED_S = 30.0
# Of an endpoint that fails: between two events that are tried for the first time, twice as long each time.
FIRST_REST_S, MOST_REST_S = 0.1, 10.0
# In which nothing succeeded: then it is disabled. Why it is: for that, or because its receiver has said so (410).
FAILING_DAYS = 5
FAILING, GONE = "failing", "gone"
# Attempts that are kept of a delivery, the newest.
MOST_LOGGED = 30


class Status(StrEnum):
    """How a delivery stands."""

    PENDING = "pending"  # to be tried, once or again
    DELIVERED = "delivered"  # its receiver has answered 2xx
    FAILED = "failed"  # its attempts ran out


class Held(NamedTuple):
    """A delivery that is to be put on the queue; ``claims``: which claim of it comes next."""

    webhook_id: int
    event_id: int
    claims: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery to be sent. ``claims`` is what tells its sender from any other; ``body`` is that of a test."""

    webhook_id: int
    event_id: int
    claims: int
    attempts: int
    body: str | None
    url: str
    secrets: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How an attempt went: ``answer`` is the beginning of what came back, ``error`` why nothing did."""

    at: datetime
    http_status: int | None
    duration_ms: int
    answer: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from an attempt.

    ``next_in_s``: seconds until the next one, None: there is none. ``quiet_s``: so long the receiver wants to hear
    nothing. ``is_gone``: it wants to hear nothing ever again.
    """

    status: Status
    next_in_s: float | None = None
    quiet_s: float | None = None
    is_gone: bool = False


class Outcome(NamedTuple):
    """How an attempt at a delivery went, and what follows."""

    claimed: Claimed
    attempt: Attempt
    verdict: Verdict


_RELEASE = text("UPDATE webhook_deliveries SET held_until = NULL WHERE held_until <= now()")
# Of each endpoint as many as there is room for. They are locked, and so are found again by where they are: by any index
# PostgreSQL might think it cheaper to look through all that is pending.
_HOLD = text("""
WITH busy AS MATERIALIZED (
    SELECT w.id, w.failing_since IS NOT NULL AS fails, coalesce(w.fresh_at, now()) <= now() AS has_rested, held.count
    FROM webhooks AS w CROSS JOIN LATERAL (
        SELECT count(*) AS count FROM webhook_deliveries AS d WHERE d.webhook_id = w.id AND d.held_until IS NOT NULL
    ) AS held
    WHERE w.deleted_at IS NULL AND w.disabled_at IS NULL AND coalesce(w.quiet_until, now()) <= now()
        AND (held.count > 0 OR now() >= (
            SELECT d.next_attempt_at FROM webhook_deliveries AS d
            WHERE d.webhook_id = w.id AND d.status = 'pending' AND d.held_until IS NULL
            ORDER BY d.next_attempt_at LIMIT 1
        ))
), ready AS (
    SELECT id, NOT fails OR has_rested AS takes_fresh,
        CASE WHEN fails THEN 1 ELSE greatest(1, least(:most, :all / count(*) OVER ())) END - count AS room FROM busy
), due AS MATERIALIZED (
    SELECT chosen.place FROM ready CROSS JOIN LATERAL (
        SELECT d.ctid AS place FROM webhook_deliveries AS d
        WHERE d.webhook_id = ready.id AND d.status = 'pending' AND d.held_until IS NULL AND d.next_attempt_at <= now()
            AND (d.attempts > 0 OR ready.takes_fresh)
        ORDER BY d.next_attempt_at LIMIT greatest(ready.room, 0) FOR NO KEY UPDATE SKIP LOCKED
    ) AS chosen
)
UPDATE webhook_deliveries AS d SET held_until = now() + :queued_s * interval '1 second' FROM due
WHERE d.ctid = due.place RETURNING d.webhook_id, d.event_id, d.claims
""").bindparams(most=MOST_HELD, all=ALL_HELD, queued_s=QUEUED_S)
# They are few, and go also to those that are disabled. Spelled so that only the index of tests will do.
_HOLD_TESTS = text("""
WITH due AS MATERIALIZED (
    SELECT d.ctid AS place FROM webhook_deliveries AS d
    WHERE d.status = 'pending' AND d.body IS NOT NULL AND coalesce(d.held_until, '-infinity') = '-infinity'
        AND EXISTS (SELECT FROM webhooks AS w WHERE w.id = d.webhook_id AND w.deleted_at IS NULL)
    LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS d SET held_until = now() + :queued_s * interval '1 second' FROM due
WHERE d.ctid = due.place RETURNING d.webhook_id, d.event_id, d.claims
""").bindparams(most=MOST_HELD, queued_s=QUEUED_S)
_LET_GO = text("""
UPDATE webhook_deliveries AS d SET held_until = NULL
FROM unnest(CAST(:webhooks AS bigint[]), CAST(:events AS bigint[]), CAST(:claims AS int[]))
    AS each (webhook_id, event_id, claims)
WHERE d.webhook_id = each.webhook_id AND d.event_id = each.event_id AND d.claims = each.claims
""")
# What is over was claimed, and so has another number of claims.
_CLAIM = text("""
WITH claimed AS (
    UPDATE webhook_deliveries AS d SET claims = d.claims + 1, held_until = now() + :claimed_s * interval '1 second'
    FROM unnest(CAST(:webhooks AS bigint[]), CAST(:events AS bigint[]), CAST(:claims AS int[]))
        AS each (webhook_id, event_id, claims)
    WHERE d.webhook_id = each.webhook_id AND d.event_id = each.event_id AND d.claims = each.claims
    RETURNING d.webhook_id, d.event_id, d.claims, d.attempts, d.body
)
SELECT claimed.*, w.url, w.secret, CASE WHEN w.old_secret_until > now() THEN w.old_secret END AS old_secret
FROM claimed JOIN webhooks AS w ON w.id = claimed.webhook_id
WHERE w.deleted_at IS NULL AND (w.disabled_at IS NULL OR claimed.body IS NOT NULL)
""").bindparams(claimed_s=CLAIMED_S)
_TELL = text("""
UPDATE webhook_deliveries AS d SET status = each.status, attempts = d.attempts + 1, held_until = NULL,
    next_attempt_at = now() + each.next_in_s * interval '1 second',
    ended_at = CASE WHEN each.status <> 'pending' THEN now() END,
    log = CASE WHEN jsonb_array_length(d.log) >= :most THEN d.log - 0 ELSE d.log END || each.attempt
FROM unnest(
    CAST(:webhooks AS bigint[]), CAST(:events AS bigint[]), CAST(:claims AS int[]), CAST(:statuses AS text[]),
    CAST(:next_in_s AS double precision[]), CAST(:attempts AS jsonb[])
) AS each (webhook_id, event_id, claims, status, next_in_s, attempt)
WHERE d.webhook_id = each.webhook_id AND d.event_id = each.event_id AND d.claims = each.claims
    AND d.held_until IS NOT NULL
RETURNING d.webhook_id, d.event_id,
    each.status <> 'delivered' OR (SELECT failing_since IS NOT NULL FROM webhooks WHERE id = d.webhook_id) AS is_news
""").bindparams(most=MOST_LOGGED)
_SUCCEEDED = text("""
UPDATE webhooks SET failing_since = NULL, failures = 0, quiet_until = NULL, fresh_at = NULL
WHERE id = :id AND failing_since IS NOT NULL
""")
# Why it is to be disabled; null: it is not.
_WHY = f"CASE WHEN :is_gone THEN '{GONE}' WHEN failing_since < now() - :days * interval '1 day' THEN '{FAILING}' END"
# What fails while it rests was begun before, and tells nothing new.
_FAILED = text(f"""
UPDATE webhooks SET failing_since = coalesce(failing_since, now()),
    failures = failures + CASE WHEN coalesce(fresh_at, now()) <= now() THEN 1 ELSE 0 END,
    fresh_at = CASE WHEN coalesce(fresh_at, now()) <= now()
        THEN now() + least(:most_s, :first_s * 2 ^ least(failures, 16)) * interval '1 second' ELSE fresh_at END,
    quiet_until = coalesce(now() + CAST(:quiet_s AS double precision) * interval '1 second', quiet_until),
    disabled_at = coalesce(disabled_at, CASE WHEN {_WHY} IS NOT NULL THEN now() END), why = coalesce(why, {_WHY})
WHERE id = :id AND deleted_at IS NULL
RETURNING CASE WHEN disabled_at = now() THEN why END
""").bindparams(first_s=FIRST_REST_S, most_s=MOST_REST_S, days=FAILING_DAYS)  # noqa: S608 - of constants


def hold(engine: Engine, *, only_room: bool = False) -> list[Held]:
    """Hold what is due, as far as its endpoints have room, and return it: it is to be put on the queue.

    What was held for too long is nobody's again, and may be among it, and so may tests; unless it is only about the
    room that there is. Several processes may do this at a time.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    if only_room:
        return [Held._make(row) for row in write_alone(engine, _HOLD)]
    with transaction(engine) as connection:
        connection.execute(_RELEASE)
        return [Held(*row) for statement in (_HOLD_TESTS, _HOLD) for row in connection.execute(statement)]


def let_go(engine: Engine, held: Sequence[Held]) -> None:
    """Give back what could not be put on the queue, or is not going to be sent from here.

    Raises:
        Unavailable: the database cannot be reached, or has not done it; then the hold ends by itself.
    """
    with transaction(engine) as connection:
        connection.execute(_LET_GO, _columns(held))


def claim(engine: Engine, held: Sequence[Held]) -> list[Claimed]:
    """Claim what was taken from the queue, and return what of it is to be sent: not what somebody else has claimed.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    return [
        Claimed(
            webhook_id=row.webhook_id,
            event_id=row.event_id,
            claims=row.claims,
            attempts=row.attempts,
            body=row.body,
            url=row.url,
            secrets=[bytes(each) for each in (row.secret, row.old_secret) if each is not None],
        )
        for row in write_alone(engine, _CLAIM.bindparams(**_columns(held)))
    ]


def tell(engine: Engine, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write down how attempts went, of each unless somebody else has claimed the delivery since.

    Returns:
        Of each whether its endpoint is to be told of it, too.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    # In an order that others who tell have as well, so that nobody waits for each other.
    ordered = sorted(outcomes, key=lambda each: (each.claimed.webhook_id, each.claimed.event_id))
    given = _columns([each.claimed for each in ordered]) | {
        "statuses": [each.verdict.status.value for each in ordered],
        "next_in_s": [each.verdict.next_in_s or 0.0 for each in ordered],
        "attempts": [orjson.dumps(each.attempt, option=orjson.OPT_UTC_Z).decode() for each in ordered],
    }
    rows = write_alone(engine, _TELL.bindparams(**given))
    news = {(row.webhook_id, row.event_id): bool(row.is_news) for row in rows}
    return [news.get((each.claimed.webhook_id, each.claimed.event_id), False) for each in outcomes]


def tell_endpoint(engine: Engine, webhook_id: int, verdict: Verdict) -> str | None:
    """Write down what an attempt says of its endpoint. Were this lost, the next attempt tells it.

    It is done by itself: who plans locks an endpoint first and then its deliveries.

    Returns:
        Why the endpoint is disabled, if it is so by this; else None.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    with transaction(engine) as connection:
        if verdict.status is Status.DELIVERED:
            connection.execute(_SUCCEEDED, {"id": webhook_id})
            return None
        given = {"id": webhook_id, "quiet_s": verdict.quiet_s, "is_gone": verdict.is_gone}
        return connection.execute(_FAILED, given).scalar()


def _columns(held: Sequence[Held | Claimed]) -> dict[str, Any]:
    return {
        "webhooks": [each.webhook_id for each in held],
        "events": [each.event_id for each in held],
        "claims": [each.claims for each in held],
    }
