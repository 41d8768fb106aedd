"""What there is to do: wallets, pending transfers and their RQ jobs; and whether all of it was done, to the cent."""

import time
from enum import Enum

import redis
from sqlalchemy import Connection, Engine, text

from bench.figures import BenchError
from bench.site import SERVICE, YARDSTICK, Site
from jobs.rq.keys import QUEUE, STARTED, NewJob, RqKeys
from models.snowflake import layout

WALLETS = 2_000
# Nobody runs out of it: a rejected transfer costs less than a posted one.
OPENING_CENTS = 100_000_000
# Ids as long as real ones: of the first instant of an hour after the epoch.
FIRST_ID = layout.encode(layout.EPOCH_MS + 3_600_000, 0, 0)
ENQUEUED_AT_ONCE = 1_000
# Our connections give up a server that is silent for seconds, as a busy one might be over all of them.
WRITTEN_AT_ONCE = 20_000
POLL_S = 0.02
# Nothing moves for this long: it never will.
STALLED_S = 60.0


class Spread(Enum):
    """Between which wallets money moves."""

    UNIFORM = "uniform"  # any two of them
    HOT = "hot"  # every transfer into wallet 1


# A worker's statements are bounded; those around the measuring may take longer.
_UNHURRIED = "SET LOCAL statement_timeout = 0"
_OPEN = """
INSERT INTO wallets (id, balance, version) SELECT n, :cents, 1 FROM generate_series(1, :wallets) AS n;
INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, attempts, completed_at)
SELECT n, 'deposit', n, :cents, 'posted', 1, 1, now() FROM generate_series(1, :wallets) AS n;
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
SELECT n, 1, n, 1, :cents, :cents FROM generate_series(1, :wallets) AS n
"""
# With a trace, as every transfer that came through the API has one.
_ORDER = """
INSERT INTO transfers (id, kind, source, destination, amount, trace)
SELECT :first + n, 'transfer', source,
       CASE WHEN :is_hot THEN 1 ELSE 1 + (source + floor(random() * (:wallets - 1))::bigint) % :wallets END,
       1 + floor(random() * 100)::bigint,
       '00-' || md5(n::text) || '-' || left(md5((-n)::text), 16) || '-01'
FROM (
    SELECT n,
        CASE WHEN :is_hot THEN 2 + floor(random() * (:wallets - 1)) ELSE 1 + floor(random() * :wallets) END::bigint
    FROM generate_series(:begin, :end - 1) AS n
) AS drawn (n, source)
"""
_OUTCOMES = """
SELECT status, count(*) AS rows FROM transfers WHERE kind = 'transfer' AND status <> 'pending' GROUP BY status
"""
_BOOKS = """
SELECT sum(balance) = :total_cents
   AND bool_and(balance = booked AND version = seqs AND balance = newest)
FROM wallets AS w CROSS JOIN LATERAL (
    SELECT sum(amount) AS booked, count(*) AS seqs, (array_agg(balance_after ORDER BY seq DESC))[1] AS newest
    FROM entries WHERE wallet_id = w.id
) AS e
"""
_ANNOUNCED = """
SELECT NOT EXISTS (SELECT FROM event_batches WHERE position IS NULL)
   AND (SELECT coalesce(max(upto), 0) FROM announcements) >= (SELECT last_event FROM event_head)
"""


def lay_out(site: Site, database: str, count: int, spread: Spread) -> None:
    """Begin anew: nothing in Redis, funded wallets and this many pending transfers, all of it vacuumed and flushed."""
    site.redis.flushall()
    for engine in site.engines.values():
        with engine.begin() as connection:
            connection.execute(
                text(
                    "TRUNCATE wallets, transfers, transfer_references, entries, event_batches, announcements, sendings,"
                    " holdings, webhooks, webhook_deliveries"
                )
            )
            connection.execute(text("UPDATE event_head SET last_event = 0, forgotten = 0"))
    open_wallets(site, database)
    given = {"wallets": WALLETS, "first": FIRST_ID}
    with site.engines[database].begin() as connection:
        connection.execute(text(_UNHURRIED))
        connection.execute(text("SELECT setseed(0.5)"))
        for begin in range(0, count, WRITTEN_AT_ONCE):
            part = {"begin": begin, "end": min(count, begin + WRITTEN_AT_ONCE)}
            _execute(connection, _ORDER, given | part | {"is_hot": spread is Spread.HOT})
    site.execute_as_admin(SERVICE, "VACUUM ANALYZE")
    site.execute_as_admin(YARDSTICK, "VACUUM ANALYZE", "CHECKPOINT")


def open_wallets(site: Site, database: str) -> None:
    """Open and fund all wallets in a database where nothing is."""
    with site.engines[database].begin() as connection:
        connection.execute(text(_UNHURRIED))
        for statement in _OPEN.split(";"):
            _execute(connection, statement, {"cents": OPENING_CENTS, "wallets": WALLETS})


def enqueue(site: Site) -> None:
    """Put a real RQ job on RQ's queue for every pending transfer, and start the append-only file anew."""
    keys = RqKeys(site.redis)
    statement = text("SELECT id, trace FROM transfers WHERE status = 'pending' ORDER BY id")
    with site.engines[SERVICE].connect() as connection:
        waiting = [NewJob(row.id, row.trace) for row in connection.execute(statement)]
    for first in range(0, len(waiting), ENQUEUED_AT_ONCE):
        keys.enqueue(waiting[first : first + ENQUEUED_AT_ONCE])
    if (length := keys.queue_length()) != len(waiting):
        raise BenchError(f"{length} jobs are on the queue, not {len(waiting)}")
    _wait_for_rewrite(site.redis)  # one that it began by itself while the queue grew
    site.redis.bgrewriteaof()
    _wait_for_rewrite(site.redis)


def wait_until_booked(client: redis.Redis) -> float:
    """Wait until no job waits and none is started; return that instant of the monotonic clock.

    Raises:
        BenchError: nothing has moved for a while.
    """
    before, moved_at = None, time.monotonic()
    while True:
        with client.pipeline(transaction=True) as both:
            both.llen(QUEUE)
            both.llen(f"{QUEUE}:intermediate")  # where stock RQ keeps a job between the two
            both.zcard(STARTED)
            left = both.execute()
        now = time.monotonic()
        if left == [0, 0, 0]:
            return now
        if left != before:
            before, moved_at = left, now
        elif now - moved_at > STALLED_S:
            raise BenchError(f"the workers have stopped working: {left[0]} jobs wait, {left[1]} are started")
        time.sleep(POLL_S)


def wait_until_final(engine: Engine) -> None:
    """Wait until no transfer is pending, without a look at the queue: the relay may still have to find one.

    Raises:
        BenchError: that takes too long.
    """
    deadline = time.monotonic() + STALLED_S
    while left := pending(engine):
        if time.monotonic() > deadline:
            raise BenchError(f"{left} transfers are still pending")
        time.sleep(POLL_S)


def wait_until_announced(engine: Engine) -> None:
    """Wait until others have been told of all that has happened.

    Raises:
        BenchError: that takes too long.
    """
    deadline = time.monotonic() + STALLED_S
    while True:
        with engine.connect() as connection:
            if connection.scalar(text(_ANNOUNCED)):
                return
        if time.monotonic() > deadline:
            raise BenchError("events are still to be announced")
        time.sleep(POLL_S)


def pending(engine: Engine) -> int:
    """Return how many transfers are."""
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM transfers WHERE status = 'pending'")) or 0)


def check(engine: Engine, *, posted: int, deposited_cents: int = 0) -> None:
    """See that so many transfers were posted, none ended otherwise, and every cent is where the entries say.

    Args:
        engine: of the database.
        posted: how many transfers, deposits not among them.
        deposited_cents: what wallets got from outside since they were opened.

    Raises:
        BenchError: not so.
    """
    with engine.connect() as connection:
        connection.execute(text(_UNHURRIED))
        found = {row.status: row.rows for row in connection.execute(text(_OUTCOMES))}
        if found != ({"posted": posted} if posted else {}):
            raise BenchError(f"of {posted} transfers became {found}")
        if not connection.scalar(text(_BOOKS), {"total_cents": OPENING_CENTS * WALLETS + deposited_cents}):
            raise BenchError("the books do not balance")


def _wait_for_rewrite(client: redis.Redis) -> None:
    """Wait until the append-only file is not being rewritten, nor about to be."""
    while True:
        state = client.info("persistence")
        if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
            return
        time.sleep(POLL_S)


def _execute(connection: Connection, statement: str, given: dict[str, int]) -> None:
    names = {name: value for name, value in given.items() if f":{name}" in statement}
    connection.execute(text(statement), names)
