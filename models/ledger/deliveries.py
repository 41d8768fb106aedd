"""What has to be remembered of a transport that cannot be asked for what it carries.

A queue in Redis can be asked whether it has a job. A log cannot: it has records, in the order in which they came, and
an offset up to which they were read. So the relay notes here what it sends, and whoever takes records in hand notes
which, so that it is known if it dies over them.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from models.database.engine import fetch_all
from models.database.session import Session, Statement
from models.ledger.posting import array, columns


class Waiting(NamedTuple):
    """A pending transfer that is due.

    ``sent_at``: when the relay last sent it, None if it never did. ``due_again_at``: when it became due once more, by a
    failed attempt, by being brought back or as planned; None: it never waited. ``looked_at``: when that was seen.
    All by PostgreSQL's clock.
    """

    id: int
    source: int | None
    created_at: datetime
    due_again_at: datetime | None
    sent_at: datetime | None
    looked_at: datetime


class Held(NamedTuple):
    """What somebody took in hand last from one place: from which offset on, who, and which transfers."""

    first: int
    holder: UUID
    transfers: list[int]


_FIND_WAITING = text("""
SELECT t.id, t.source, t.created_at, t.next_attempt_at, s.sent_at, statement_timestamp()
FROM transfers AS t LEFT JOIN sendings AS s ON s.transfer_id = t.id
WHERE t.id = ANY (CAST(:ids AS bigint[])) AND t.completed_at IS NULL
    AND (t.next_attempt_at IS NULL OR t.next_attempt_at <= now())
ORDER BY t.id
""")
_FIND_SENT = text("""
SELECT t.id, greatest(t.created_at, s.sent_at) AS sent_at FROM transfers AS t LEFT JOIN sendings AS s
    ON s.transfer_id = t.id WHERE t.id = ANY (CAST(:ids AS bigint[]))
""")
_NOTE_SENT = text("""
INSERT INTO sendings (transfer_id) SELECT unnest(CAST(:ids AS bigint[])) ORDER BY 1
ON CONFLICT (transfer_id) DO UPDATE SET sent_at = now()
""")
# Of those that are over; a look at so many that are not costs as much. Each is looked up by its id alone: asked for one
# that is pending as well, PostgreSQL may look for each among all that is pending, if it takes that for little.
_FORGET_SENT = text("""
DELETE FROM sendings WHERE transfer_id = ANY (ARRAY(
    SELECT looked_at.transfer_id FROM (
        SELECT transfer_id FROM sendings WHERE transfer_id > :after ORDER BY transfer_id LIMIT :limit
    ) AS looked_at
    LEFT JOIN LATERAL (SELECT status FROM transfers WHERE id = looked_at.transfer_id LIMIT 1) AS t ON true
    WHERE t.status IS DISTINCT FROM 'pending'
))
""")
_LOOK_ON = text("""
SELECT max(transfer_id) FROM (
    SELECT transfer_id FROM sendings WHERE transfer_id > :after ORDER BY transfer_id LIMIT :limit
) AS looked_at
""")
_FIND_HELD = text("SELECT place, first, holder, transfers FROM holdings WHERE place = ANY (CAST(:places AS text[]))")
# What dies is the worker: should PostgreSQL itself go down, so that this is lost, no worker has died of a transfer.
_NO_HURRY = Statement("no_hurry", ("text",), "SELECT set_config('synchronous_commit', $1, true)")
_HOLD = Statement(
    "hold",
    ("text[]", "bigint[]", "text[]", "text"),
    """
INSERT INTO holdings (place, first, holder, transfers)
SELECT place, first, $4::uuid, transfers::bigint[] FROM unnest($1, $2, $3) AS new (place, first, transfers)
ON CONFLICT (place) DO UPDATE SET first = excluded.first, holder = excluded.holder, transfers = excluded.transfers
""",
)
_ADD_LOST = text("""
UPDATE transfers AS t SET lost_leases = t.lost_leases + 1
FROM (
    SELECT id FROM transfers WHERE id = ANY (CAST(:ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE
) AS locked
WHERE t.id = locked.id AND t.completed_at IS NULL
RETURNING t.id, t.lost_leases
""")


def find_now(engine: Engine) -> datetime:
    """Return what time it is by PostgreSQL's clock.

    Raises:
        Unavailable: the database is away.
    """
    (row,) = fetch_all(engine, text("SELECT clock_timestamp()"))
    now: datetime = row[0]
    return now


def find_waiting(engine: Engine, transfer_ids: Sequence[int]) -> list[Waiting]:
    """Return those of the transfers that are pending and due, by their ids.

    Raises:
        Unavailable: the database is away.
    """
    return [Waiting._make(row) for row in fetch_all(engine, _FIND_WAITING.bindparams(ids=list(transfer_ids)))]


def find_sent(engine: Engine, transfer_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when those of the transfers that exist were last sent on their way, by whomever.

    Raises:
        Unavailable: the database is away.
    """
    rows = fetch_all(engine, _FIND_SENT.bindparams(ids=list(transfer_ids)))
    return {row.id: row.sent_at for row in rows}


def note_sent(connection: Connection, transfer_ids: Iterable[int]) -> None:
    """Note that these are being sent now."""
    connection.execute(_NOTE_SENT, {"ids": list(transfer_ids)})


def forget_sent(connection: Connection, *, after: int, limit: int) -> int:
    """Forget the sending of transfers that are no longer pending.

    Args:
        connection: in a transaction.
        after: the id to look on from.
        limit: how many are looked at.

    Returns:
        The id to look on from the next time; 0: from the beginning.
    """
    given = {"after": after, "limit": limit}
    last = connection.execute(_LOOK_ON, given).scalar()
    connection.execute(_FORGET_SENT, given)
    return int(last or 0)


def find_held(engine: Engine, places: Sequence[str]) -> dict[str, Held]:
    """Return what was last taken in hand at each of these places.

    Raises:
        Unavailable: the database is away.
    """
    rows = fetch_all(engine, _FIND_HELD.bindparams(places=list(places)))
    return {row.place: Held(row.first, row.holder, list(row.transfers)) for row in rows}


def hold(engine: Engine, holder: UUID, taken: Mapping[str, tuple[int, Sequence[int]]]) -> None:
    """Note what is being taken in hand: from each place, from which offset on, which transfers.

    Raises:
        sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError: it could not be noted.
    """
    with Session(engine) as session:
        session.begin()
        session.first(_NO_HURRY, "off")
        # In one order, whoever it is: somebody may be late with what is no longer his.
        places = [(place, first, array(ids)) for place, (first, ids) in sorted(taken.items())]
        session.run(_HOLD, *columns(places, "tnt"), str(holder), then="COMMIT")


def add_lost(connection: Connection, transfer_ids: Iterable[int]) -> dict[int, int]:
    """Count one more worker that died over each of these, and return how many it is, of those that are pending."""
    rows = connection.execute(_ADD_LOST, {"ids": list(transfer_ids)})
    return {row.id: row.lost_leases for row in rows}
