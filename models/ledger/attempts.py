"""What is tried again: the attempts of pending transfers, dead letters, and what has to be brought back.

All of it is fenced by ``attempts`` and ``generation`` as they were seen before the try, so that a worker that comes
late can neither spend an attempt twice nor fail what an administrator has just requeued. Lost leases are those of the
present generation: what Redis counts may be of an earlier one.

What locks several transfers locks them in the order of their ids first, like everybody (posting.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, func, not_, or_, select, text

from models.database.engine import fetch_all
from models.ledger.posting import Outcome
from models.ledger.transfer import MAX_ID, Status
from models.schema.tables import transfers

# Reasons of a failed transfer.
ATTEMPTS_EXHAUSTED = "attempts_exhausted"
WORKER_LOST = "worker_lost"


class Seen(NamedTuple):
    """A pending transfer's counters before it is tried."""

    attempts: int
    generation: int


class Spent(NamedTuple):
    """What became of a transfer whose attempt failed: due again at an instant, or a dead letter (None)."""

    generation: int
    attempts: int
    next_attempt_at: datetime | None
    # The W3C traceparent that it came with.
    trace: str | None


class Due(NamedTuple):
    """A pending transfer that is due: all that a transport carries of it."""

    id: int
    source: int | None
    destination: int | None
    amount_cents: int
    trace: str | None
    attempts: int = 0
    lost_leases: int = 0


class Coming(NamedTuple):
    """A pending transfer that is not due yet, and when it is."""

    id: int
    trace: str | None
    due: datetime


class Place(NamedTuple):
    """Where something stands among what is pending: by when it became due (PostgreSQL's clock), then by its id."""

    due: datetime
    id: int


# Before everything that ever became due.
BEGINNING = Place(datetime(2000, 1, 1, tzinfo=UTC), 0)


class Page(NamedTuple):
    """What a look at pending transfers has found.

    ``ids`` in the order in which they became due. ``first``: where the first of them stands, None without any.
    ``end``: up to where everything was seen. ``looked_at``: the instant of the look. ``is_last``: nothing after ``end``
    was due by then.
    """

    ids: list[int]
    first: Place | None
    end: Place
    looked_at: datetime
    is_last: bool


# What changes some transfers, and leaves one row that tells of it (events.py): with theirs as they are now, since they
# may be otherwise later, but for what is nobody's except the caller's. Its id is drawn when all of them are locked.
# What is pending after an attempt is merely tried again. Their bulks count them, as in posting.py.
# Where ids are known, what is pending is told by what is missing. For the word, which indexes have, PostgreSQL may walk
# through all that is pending for each of them, if it takes that for little.
TELL = """
WITH changed AS ({change}), told AS (
    INSERT INTO event_batches (transfers, snapshots, created_at)
    SELECT array_agg(id ORDER BY id),
        jsonb_agg(to_jsonb(changed) - ARRAY['idempotency_key', 'key_owner', 'request_hash'] ORDER BY id),
        statement_timestamp()
    FROM changed WHERE status <> 'pending' OR attempts = 0 HAVING count(*) > 0
), counts AS (
    SELECT bulk_id, count(*) FILTER (WHERE status = 'failed') - count(*) FILTER (WHERE status = 'pending') AS failed,
        count(*) FILTER (WHERE status = 'canceled') AS canceled
    FROM changed WHERE bulk_id IS NOT NULL AND (status <> 'pending' OR attempts = 0) GROUP BY bulk_id
), kept AS (
    SELECT id FROM bulks WHERE id = ANY (ARRAY(SELECT bulk_id FROM counts)) ORDER BY id FOR NO KEY UPDATE
), counted AS (
    UPDATE bulks AS b SET failed = b.failed + counts.failed, canceled = b.canceled + counts.canceled,
        completed_at = CASE
            WHEN b.posted + b.rejected + b.failed + counts.failed + b.canceled + counts.canceled = b.count
            THEN statement_timestamp() END
    FROM counts JOIN kept ON kept.id = counts.bulk_id WHERE b.id = counts.bulk_id
)
SELECT id, source, destination, amount, generation, attempts, next_attempt_at, trace, lost_leases, bulk_id FROM changed
"""
_SPEND = text(
    TELL.format(
        change="""
UPDATE transfers AS t SET
    attempts = t.attempts + 1,
    last_error = :error,
    next_attempt_at = now() + tried.delay_s * interval '1 second',
    status = CASE WHEN tried.delay_s IS NULL THEN 'failed' ELSE 'pending' END,
    reason = CASE WHEN tried.delay_s IS NULL THEN :reason END,
    completed_at = CASE WHEN tried.delay_s IS NULL THEN statement_timestamp() END
FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[]), CAST(:generations AS int[]),
            CAST(:delays AS float8[])) AS tried (id, attempts, generation, delay_s)
JOIN (
    SELECT id FROM transfers WHERE id = ANY (CAST(:ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE
) AS locked ON locked.id = tried.id
WHERE t.id = tried.id AND t.completed_at IS NULL
  AND t.attempts = tried.attempts AND t.generation = tried.generation
RETURNING t.*
"""
    )
)
# What Redis counts it goes on counting when a transfer is reopened, so after that every lease is counted here; before,
# its count makes up for a relay that died, with its worker, before it could count.
_COUNT_LOST = text("""
UPDATE transfers AS t SET
    lost_leases = CASE WHEN t.generation = 1 THEN greatest(t.lost_leases, lost.leases) ELSE t.lost_leases + 1 END
FROM unnest(CAST(:ids AS bigint[]), CAST(:leases AS int[])) AS lost (id, leases)
JOIN (
    SELECT id FROM transfers WHERE id = ANY (CAST(:ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE
) AS locked ON locked.id = lost.id
WHERE t.id = lost.id AND t.completed_at IS NULL
RETURNING t.id, t.lost_leases
""")
# What was counted before is locked, and stays in its generation.
_FAIL_LOST = text(
    TELL.format(
        change="""
UPDATE transfers SET status = 'failed', reason = :reason, completed_at = statement_timestamp(),
    last_error = 'the worker died each time it was tried', next_attempt_at = NULL
WHERE id = ANY (CAST(:ids AS bigint[])) AND completed_at IS NULL AND lost_leases >= :most
RETURNING *
"""
    )
)
# Those of an atomic bulk end together: they have failed, too.
_FAIL_COMPANIONS = text(
    TELL.format(
        change="""
UPDATE transfers AS t SET status = 'failed', reason = dead.reason, completed_at = statement_timestamp(),
    last_error = dead.last_error, next_attempt_at = NULL
FROM (
    SELECT DISTINCT ON (d.bulk_id) d.bulk_id, d.reason, d.last_error FROM transfers AS d
    JOIN bulks AS b ON b.id = d.bulk_id AND b.atomic
    WHERE d.id = ANY (CAST(:ids AS bigint[])) AND d.status = 'failed' ORDER BY d.bulk_id, d.id
) AS dead
JOIN LATERAL (
    SELECT id FROM transfers WHERE bulk_id = dead.bulk_id ORDER BY id FOR NO KEY UPDATE
) AS locked ON true
WHERE t.id = locked.id AND t.completed_at IS NULL
RETURNING t.*
"""
    )
)
# What is brought back brings its companions with it.
_FIND_COMPANIONS = text("""
SELECT t.id, t.generation FROM transfers AS t WHERE t.status = 'failed' AND t.bulk_id IN (
    SELECT d.bulk_id FROM transfers AS d JOIN bulks AS b ON b.id = d.bulk_id AND b.atomic
    WHERE d.id = ANY (CAST(:ids AS bigint[])) AND d.status = 'failed'
)
""")
# A generation that somebody saw as dead is reopened once, however often he asks. It is due as of now: what becomes
# pending never does so in the past, where nobody would look for it.
_REOPEN = text(
    TELL.format(
        change="""
UPDATE transfers AS t SET status = 'pending', reason = NULL, attempts = 0, generation = t.generation + 1,
    lost_leases = 0, next_attempt_at = now(), completed_at = NULL
FROM unnest(CAST(:ids AS bigint[]), CAST(:generations AS int[])) AS dead (id, generation)
JOIN (
    SELECT id FROM transfers WHERE id = ANY (CAST(:ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE
) AS locked ON locked.id = dead.id
WHERE t.id = dead.id AND t.status = 'failed' AND t.generation = dead.generation
RETURNING t.*
"""
    )
)
# A row of what was asked when, beside what was found.
_FIND_PENDING = text("""
SELECT look.*, found.id, found.due
FROM (
    SELECT now() AS looked_at,
        CASE WHEN CAST(:share AS float8) < 1 AND now() - CAST(:due AS timestamptz) > interval '1 s'
            THEN CAST(:due AS timestamptz) + (now() - CAST(:due AS timestamptz)) * :share ELSE now() END AS until
) AS look LEFT JOIN LATERAL (
    SELECT id, coalesce(next_attempt_at, created_at) AS due FROM transfers
    WHERE status = 'pending' AND coalesce(next_attempt_at, created_at) <= look.until
        AND (coalesce(next_attempt_at, created_at), id) > (CAST(:due AS timestamptz), :id)
    ORDER BY coalesce(next_attempt_at, created_at), id LIMIT :limit
) AS found ON true ORDER BY found.due, found.id
""")
_FIND_COMING = text("""
SELECT id, trace, coalesce(next_attempt_at, created_at) FROM transfers
WHERE status = 'pending' AND coalesce(next_attempt_at, created_at) > now()
ORDER BY coalesce(next_attempt_at, created_at), id LIMIT :limit
""")


def find_seen(engine: Engine, transfer_ids: Iterable[int]) -> dict[int, Seen]:
    """Return the counters of those that are pending, and not planned for later: nobody tries those."""
    is_planned = func.coalesce(transfers.c.not_before > func.now(), False)
    query = select(transfers.c.id, transfers.c.attempts, transfers.c.generation).where(
        transfers.c.id.in_(list(transfer_ids)), transfers.c.status == "pending", not_(is_planned)
    )
    return {row.id: Seen(row.attempts, row.generation) for row in fetch_all(engine, query)}


def find_seen_of_bulk(engine: Engine, bulk_id: int) -> dict[int, Seen]:
    """Return the counters of what is pending of a bulk."""
    query = select(transfers.c.id, transfers.c.attempts, transfers.c.generation).where(
        transfers.c.bulk_id == bulk_id, transfers.c.status == "pending"
    )
    return {row.id: Seen(row.attempts, row.generation) for row in fetch_all(engine, query)}


def spend(
    connection: Connection, seen: Mapping[int, Seen], delays_s: Mapping[int, float | None], *, error: str
) -> dict[int, Spent]:
    """Spend an attempt of each transfer that still stands as it was seen.

    Args:
        connection: in a transaction.
        seen: the counters before the try.
        delays_s: seconds until the next attempt; None: there is none, the transfer becomes a dead letter.
        error: for ``last_error``, which users see: no SQL, no secrets.
    """
    ids = sorted(seen)
    parameters = {
        "ids": ids,
        "attempts": [seen[each].attempts for each in ids],
        "generations": [seen[each].generation for each in ids],
        "delays": [delays_s[each] for each in ids],
        "error": error,
        "reason": ATTEMPTS_EXHAUSTED,
    }
    rows = connection.execute(_SPEND, parameters).all()
    _fail_companions(connection, [row.id for row in rows if row.bulk_id is not None and row.next_attempt_at is None])
    return {row.id: Spent(row.generation, row.attempts, row.next_attempt_at, row.trace) for row in rows}


def _fail_companions(connection: Connection, dead: Sequence[int]) -> None:
    """Have those fail, too, that are in an atomic bulk with a dead letter."""
    if dead:
        connection.execute(_FAIL_COMPANIONS, {"ids": list(dead)})


def count_lost(connection: Connection, leases: Mapping[int, int]) -> dict[int, int]:
    """Remember how many workers died, or lost their lease, while they held each of these.

    Args:
        connection: in a transaction.
        leases: by transfers whose lease has just run out, how many they have lost as Redis counts.

    Returns:
        Of those that are pending, how many each has lost in its present generation.
    """
    rows = connection.execute(_COUNT_LOST, {"ids": list(leases), "leases": list(leases.values())})
    return {row.id: row.lost_leases for row in rows}


def fail_lost(connection: Connection, transfer_ids: Iterable[int], *, most: int) -> dict[int, Spent]:
    """Turn transfers that kill their worker each time into dead letters.

    Args:
        connection: in the transaction in which :func:`count_lost` has counted them.
        transfer_ids: which; those are spared that have not lost ``most`` leases in their present generation.
        most: leases.
    """
    rows = connection.execute(_FAIL_LOST, {"ids": list(transfer_ids), "reason": WORKER_LOST, "most": most}).all()
    _fail_companions(connection, [row.id for row in rows if row.bulk_id is not None])
    return {row.id: Spent(row.generation, row.attempts, None, row.trace) for row in rows}


def reopen(connection: Connection, generations: Mapping[int, int]) -> list[Due]:
    """Bring dead letters back as pending, in a new generation and with all their attempts.

    Of an atomic bulk all come back, whichever is asked for.

    Args:
        connection: in a transaction.
        generations: the generation in which each was seen dead; one that was reopened since is left alone.
    """
    companions = {row.id: row.generation for row in connection.execute(_FIND_COMPANIONS, {"ids": list(generations)})}
    generations = companions | dict(generations)
    rows = connection.execute(_REOPEN, {"ids": list(generations), "generations": list(generations.values())})
    return [
        Due(row.id, row.source, row.destination, row.amount, row.trace, row.attempts, row.lost_leases) for row in rows
    ]


def find_pending(engine: Engine, *, after: Place = BEGINNING, limit: int, share: float = 1.0) -> Page:
    """Look at transfers that are pending and due, in the order in which they became due.

    It costs a look at one index from ``after`` on, with an entry for everything that was settled since and that vacuum
    has not yet removed.

    Args:
        engine: of the books.
        after: where to go on.
        limit: how many, at most.
        share: of the time between ``after`` and now, how much is looked at: less than 1 where there is too much of it.

    Raises:
        Unavailable: the database is away, or all that took longer than a statement may.
    """
    rows = fetch_all(engine, _FIND_PENDING.bindparams(due=after.due, id=after.id, limit=limit, share=share))
    looked_at, until = rows[0].looked_at, rows[0].until
    found = [Place(row.due, row.id) for row in rows if row.id is not None]
    is_full = len(found) == limit
    return Page(
        ids=[each.id for each in found],
        first=found[0] if found else None,
        end=found[-1] if is_full else max(after, Place(until, MAX_ID)),
        looked_at=looked_at,
        is_last=not is_full and until >= looked_at,
    )


def find_due(engine: Engine, transfer_ids: Sequence[int]) -> list[Due]:
    """Return what is needed to enqueue those of the transfers that are still pending, and due."""
    is_due = or_(transfers.c.next_attempt_at.is_(None), transfers.c.next_attempt_at <= func.now())
    query = (
        select(
            transfers.c.id,
            transfers.c.source,
            transfers.c.destination,
            transfers.c.amount,
            transfers.c.trace,
            transfers.c.attempts,
            transfers.c.lost_leases,
        )
        .where(transfers.c.id.in_(list(transfer_ids)), transfers.c.completed_at.is_(None), is_due)
        .order_by(transfers.c.id)
    )
    return [Due._make(row) for row in fetch_all(engine, query)]


def find_coming(engine: Engine, *, limit: int) -> list[Coming]:
    """Return the next transfers that are pending and not due yet, planned or tried before, the soonest first.

    Raises:
        Unavailable: the database is away, or that took longer than a statement may.
    """
    return [Coming._make(row) for row in fetch_all(engine, _FIND_COMING.bindparams(limit=limit))]


def find_early(engine: Engine, transfer_ids: Iterable[int]) -> dict[int, datetime]:
    """Return for when those of the transfers are planned that are pending and not to be tried before."""
    query = select(transfers.c.id, transfers.c.not_before).where(
        transfers.c.id.in_(list(transfer_ids)), transfers.c.status == "pending", transfers.c.not_before > func.now()
    )
    return {row.id: row.not_before for row in fetch_all(engine, query)}


def find_outcomes(engine: Engine, transfer_ids: Iterable[int]) -> dict[int, Outcome]:
    """Return how those of the transfers stand that exist."""
    query = select(transfers.c.id, transfers.c.status, transfers.c.reason).where(transfers.c.id.in_(list(transfer_ids)))
    return {row.id: Outcome(Status(row.status), row.reason) for row in fetch_all(engine, query)}


def find_dead_generations(engine: Engine, transfer_ids: Sequence[int]) -> dict[int, int]:
    """Return the generations of those of the transfers that are dead letters."""
    query = select(transfers.c.id, transfers.c.generation).where(
        transfers.c.id.in_(list(transfer_ids)), transfers.c.status == "failed"
    )
    return {row.id: row.generation for row in fetch_all(engine, query)}


def find_dead(engine: Engine, *, before: int, limit: int) -> Sequence[Row[Any]]:
    """Return rows of failed transfers with an id below ``before``, newest first."""
    query = select(transfers).where(transfers.c.status == "failed", transfers.c.id < before)
    return fetch_all(engine, query.order_by(transfers.c.id.desc()).limit(limit))
