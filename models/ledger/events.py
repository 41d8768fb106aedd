"""Events: what has happened to transfers, in the order in which it became true for their wallets.

Whoever posts, fails or reopens transfers leaves one row in the same statement (posting.py, attempts.py): a *batch* that
names them in the order decided. Its id is drawn from a sequence while the locks of its transfers and wallets are held,
and they are held until the commit. So of two batches that share a wallet or a transfer the later one has the higher id,
and whoever sees it sees the earlier one as well.

Events are numbered afterwards, by one transaction at a time: it takes the batches that it sees, in the order of their
ids, and gives each the numbers that follow those given before. A transaction that commits late comes later, and holds
up nobody; no number is left out, and none is given in front of one that somebody has read.

A posted or rejected transfer stays as it is, so its event is read from the transfer. One that failed, or is pending
again, may be otherwise by the time somebody reads of it: its batch has the row as it was.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from models.database.engine import fetch_all, transaction
from models.ledger.history import as_transfer
from models.ledger.transfer import Status, Transfer

# What a transfer that is pending again is told as; all others by their status.
REQUEUED = "requeued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened to a transfer, which is shown as it was then.

    ``type``: ``transfer.`` and the status that it has got, or ``requeued``.
    """

    id: int
    type: str
    created_at: datetime
    transfer: Transfer


class ToldEvent(NamedTuple):
    """An event as its row has it, for those who read very many; ``told_at`` is what :class:`Event` calls created_at."""

    type: str
    event_id: int
    told_at: datetime
    transfer_id: int
    source: int | None
    destination: int | None
    amount_cents: int
    status: str
    reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    kind: str
    description: str | None
    reference: str | None
    metadata: dict[str, str] | None
    not_before: datetime | None
    reverses: int | None
    reversed_cents: None  # what it was when it happened
    bulk_id: int | None


class EventPage(NamedTuple):
    """Some events, oldest first; ``next_after``: where to go on; ``missed``: events before them that are gone."""

    events: list[Event]
    next_after: int
    missed: int


# More than a transaction can take from the instant of its events to its commit.
SLACK = timedelta(minutes=1)

# Before anything else, and by itself: what of this look is visible was drawn by transactions that are older than the
# one which numbers.
_LOOK = text("""
SELECT newest_batch FROM event_head
WHERE EXISTS (SELECT FROM event_batches WHERE position IS NULL AND id > event_head.settled)
""")
# One at a time; whoever comes meanwhile leaves it to him. What the last one has numbered is seen by the next statement,
# which has a snapshot of its own.
_LOCK = """
SELECT last_event, settled, CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid,
    CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) > mark_xid
        OR CAST(CAST(pg_current_xact_id() AS text) AS bigint) < mark_xid AS is_mark_over
FROM event_head FOR UPDATE{locking}
"""
_LOCK_IF_FREE = text(_LOCK.format(locking=" SKIP LOCKED"))
_WAIT_AND_LOCK = text(_LOCK.format(locking=""))
# Up to the mark nobody can still commit a batch once all transactions are over that were there when it was set (or the
# books have been restored elsewhere since, where none of them is). Before it nobody has to look again, however many
# entries of rows that are numbered the index may still have: vacuum comes when it comes.
_NUMBER = text("""
WITH found AS MATERIALIZED (
    SELECT id, cardinality(transfers) AS events FROM event_batches
    WHERE position IS NULL AND id > :settled ORDER BY id LIMIT :most
), placed AS MATERIALIZED (
    SELECT id, CAST(:last_event + 1 + sum(events) OVER (ORDER BY id) - events AS bigint) AS position FROM found
), numbered AS (
    UPDATE event_batches AS b SET position = placed.position FROM placed WHERE b.id = ANY (ARRAY[placed.id])
), counted AS (
    SELECT count(*) AS batches, CAST(coalesce(sum(events), 0) AS bigint) AS events, coalesce(max(id), 0) AS newest
    FROM found
)
UPDATE event_head SET last_event = last_event + events, newest_batch = greatest(newest_batch, newest),
    (settled, mark, mark_xid) = (
        SELECT CASE WHEN moves THEN mark ELSE settled END, CASE WHEN moves THEN greatest(mark, :seen) ELSE mark END,
            CASE WHEN moves THEN :xid ELSE mark_xid END
        FROM (SELECT :is_mark_over AND (batches < :most OR newest >= mark) AS moves) AS mark_is_passed
    )
FROM counted RETURNING batches
""")
# The batch that has the first event that is asked for, and those that begin after it. Of each only what is asked for is
# taken apart, and its transfers are looked up by key.
_FIND = text("""
WITH head AS MATERIALIZED (
    SELECT last_event, forgotten, greatest(least(CAST(:after AS bigint), last_event), forgotten) AS start
    FROM event_head
), batches AS MATERIALIZED (
    (
        SELECT * FROM event_batches
        WHERE position <= (SELECT start + 1 FROM head) AND position > (SELECT forgotten FROM head)
        ORDER BY position DESC LIMIT 1
    )
    UNION ALL
    SELECT * FROM event_batches
    WHERE position > (SELECT start + 1 FROM head) AND position <= (SELECT start + :limit FROM head)
), parts AS MATERIALIZED (
    SELECT position, created_at, snapshots, transfers, CAST(greatest(start + 2 - position, 1) AS int) AS first,
        CAST(least(start + :limit + 1 - position, cardinality(transfers)) AS int) AS last
    FROM batches, head
)
SELECT head.last_event, head.forgotten, head.start, told.event_id, told.told_at, told.id, told.source,
    told.destination, told.amount, told.status, told.reason, told.attempts, told.last_error, told.next_attempt_at,
    told.created_at, told.completed_at, told.kind, told.description, told.reference, told.metadata,
    told.not_before, told.reverses, NULL AS reversed_amount, told.bulk_id
FROM head LEFT JOIN (
    SELECT parts.position + parts.first + each.number - 2 AS event_id, parts.created_at AS told_at, t.*
    FROM parts
    CROSS JOIN LATERAL unnest(parts.transfers[parts.first : parts.last]) WITH ORDINALITY AS each (transfer_id, number)
    CROSS JOIN LATERAL (
        SELECT * FROM transfers WHERE parts.snapshots IS NULL AND id = each.transfer_id
        UNION ALL
        SELECT shot.* FROM jsonb_populate_record(
            CAST(NULL AS transfers), parts.snapshots -> CAST(parts.first + each.number - 2 AS int)
        ) AS shot WHERE parts.snapshots IS NOT NULL
    ) AS t
) AS told ON true
ORDER BY told.event_id
""")
_FIND_LAST = text("SELECT last_event FROM event_head")
_FIND_BATCH = text("""
SELECT position, cardinality(transfers) AS events, created_at FROM event_batches
WHERE position >= :position ORDER BY position LIMIT 1
""")
_FIND_OLDEST = text("SELECT created_at FROM event_batches ORDER BY id LIMIT 1")
# The oldest as far as all of them are old: what is kept has no gap.
_FORGET = text("""
WITH oldest AS MATERIALIZED (
    SELECT id, position + cardinality(transfers) - 1 AS last,
        created_at < now() - :days * interval '1 day' AS is_old, position
    FROM event_batches WHERE position > (SELECT forgotten FROM event_head) ORDER BY position LIMIT :limit
), old AS MATERIALIZED (
    SELECT id, last FROM (SELECT id, last, bool_and(is_old) OVER (ORDER BY position) AS goes FROM oldest) AS looked_at
    WHERE goes
), gone AS (
    DELETE FROM event_batches AS b USING old WHERE b.id = ANY (ARRAY[old.id]) RETURNING old.last
)
UPDATE event_head SET forgotten = greatest(forgotten, last)
FROM (SELECT count(*) AS batches, max(last) AS last FROM gone) AS counted WHERE batches > 0 RETURNING batches
""")


def number(engine: Engine, *, most: int = 100) -> int:
    """Number the events that there are by now, a bounded amount of them, and return of how many batches.

    Any number of processes may do it at a time, and be killed: one numbers, the others return 0. Fewer than ``most``
    means that there were no more, or that somebody else is at it.

    Args:
        engine: of the books.
        most: batches.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    seen = fetch_all(engine, _LOOK)
    if not seen:
        return 0
    with transaction(engine) as connection:
        if (head := connection.execute(_LOCK_IF_FREE).mappings().first()) is None:
            return 0
        count: int = connection.execute(_NUMBER, {**head, "seen": seen[0].newest_batch, "most": most}).scalar_one()
    return count


def number_now(connection: Connection, *, most: int = 10_000) -> None:
    """Number, in the caller's transaction, what was committed before this: as :func:`number`, but waiting for others.

    So what has a number afterwards is all that had happened, but for what is more than so many batches.
    """
    head = connection.execute(_WAIT_AND_LOCK).mappings().one()
    connection.execute(_NUMBER, {**head, "seen": 0, "most": most})


def find_page(engine: Engine, *, after: int | None = None, limit: int) -> EventPage:
    """Return the events that follow one, oldest first, and where to go on. Who goes on there misses and repeats none.

    Args:
        engine: of the books.
        after: the id of an event, 0 for the beginning; None: the oldest that is kept. One that has yet to come (the
            books were restored since, or somebody wants nothing but what is new) leads to the newest.
        limit: events, at most.

    Raises:
        Unavailable: the database cannot be reached.
    """
    rows = fetch_all(engine, _FIND.bindparams(after=after or 0, limit=limit))
    head = rows[0]
    events = [
        Event(id=row.event_id, type=_type_of(row.status), created_at=row.told_at, transfer=as_transfer(row))
        for row in rows
        if row.event_id is not None
    ]
    missed = 0 if after is None else max(0, head.forgotten - after)
    # By what was looked through, and not by what was found: an owner may have taken a transfer away by hand.
    return EventPage(events, min(head.start + limit, head.last_event), missed)


def find_told(engine: Engine, *, after: int, limit: int) -> tuple[list[ToldEvent], int]:
    """Return what :func:`find_page` does, for less of a processor: the events that follow one, and where to go on.

    Raises:
        Unavailable: the database cannot be reached.
    """
    rows: Sequence[Sequence[Any]] = fetch_all(engine, _FIND.bindparams(after=after, limit=limit))
    last_event, _, start = rows[0][:3]
    events = [ToldEvent(_TYPES[row[9]], *row[3:]) for row in rows if row[3] is not None]
    return events, min(start + limit, last_event)


def find_events(engine: Engine, *, after: int, limit: int) -> list[Event]:
    """Return up to so many events that follow one, oldest first; what is forgotten is left out.

    Raises:
        Unavailable: the database cannot be reached.
    """
    page = find_page(engine, after=after, limit=limit)
    while not page.events and page.next_after > after:
        after = page.next_after
        page = find_page(engine, after=after, limit=limit)
    return page.events


def find_last(engine: Engine) -> int:
    """Return the id of the newest event that has one, 0 if there is none.

    Raises:
        Unavailable: the database cannot be reached.
    """
    last: int = fetch_all(engine, _FIND_LAST)[0].last_event
    return last


def find_oldest(connection: Connection) -> datetime | None:
    """Return when the oldest events that are kept happened, give or take how long a statement takes; None: none is."""
    return connection.execute(_FIND_OLDEST).scalar()


def find_since(engine: Engine, instant: datetime) -> int:
    """Return after which event there is all that is kept of what has happened since; what is older may be among it.

    Batches are numbered in the order of their ids, and their instants follow that but for a transaction's length: it
    is looked for by halving, :data:`SLACK` before.

    Raises:
        Unavailable: the database cannot be reached.
    """
    first, last = 0, find_last(engine)
    while first < last:
        middle = (first + last) // 2
        batch = next(iter(fetch_all(engine, _FIND_BATCH.bindparams(position=middle + 1))), None)
        if batch is None or batch.created_at + SLACK >= instant:
            last = middle
        else:
            first = max(middle + 1, batch.position + batch.events - 1)
    return first


def find_followed(engine: Engine, ids: Collection[int]) -> set[int]:
    """Return after which of these events there is something to read by now: all of them in one look.

    Raises:
        Unavailable: the database cannot be reached.
    """
    last = find_last(engine)
    return {each for each in ids if each < last}


def forget(engine: Engine, *, older_than_days: float, limit: int) -> int:
    """Delete the oldest events, up to so many batches, if they are old enough and numbered; return how many it were.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    with transaction(engine) as connection:
        row = connection.execute(_FORGET, {"days": older_than_days, "limit": limit}).first()
    return 0 if row is None else row.batches


def _type_of(status: str) -> str:
    return f"transfer.{REQUEUED if status == Status.PENDING else status}"


_TYPES = {status.value: _type_of(status.value) for status in Status}
