"""Transfers for the tests of the queue to settle, how they stand, and faults that the database itself can cause."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import Connection, Engine, Row, insert, text

from jobs.relay import TURN
from jobs.rq.keys import MOST, QUEUE, QUEUE_NAME, STARTED, NewJob, RqKeys
from models.ledger.attempts import Due
from models.schema.tables import transfers
from tests.books import check_books
from tests.models.ledger.ordering import come, post_now

FIRST_ID = 1_000
OPENING_CENTS = 1_000_000

# A trigger of ours is the only thing that can single a transfer out inside PostgreSQL.
_TRIGGER = """
CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {body} RETURN NEW; END $$;
CREATE TRIGGER test_fault BEFORE UPDATE OF source_seq ON transfers FOR EACH ROW
WHEN (NEW.id IN ({ids})) EXECUTE FUNCTION test_fault();
"""
_NO_TRIGGER = "DROP TRIGGER test_fault ON transfers; DROP FUNCTION test_fault()"
REFUSES = "RAISE EXCEPTION 'SECRET' USING ERRCODE = 'P0001';"
CANNOT_SERIALIZE = "RAISE EXCEPTION 'told to' USING ERRCODE = '40001';"
DAWDLES = "PERFORM pg_sleep(20);"


def fund(engine: Engine, *users: int, cents: int = OPENING_CENTS) -> None:
    """Open wallets by deposits, as everybody has to; their ids are the users', far below all others."""
    rows: list[dict[str, Any]] = [
        {"id": user, "kind": "deposit", "destination": user, "amount": cents} for user in users
    ]
    with engine.begin() as connection:
        connection.execute(insert(transfers), rows)
    post_now(engine, [row["id"] for row in rows])


def accept(
    engine: Engine, count: int, *, first_id: int = FIRST_ID, source: int = 1, destination: int = 2, cents: int = 1
) -> list[int]:
    """Record transfers as accepted, and enqueue none."""
    rows: list[dict[str, Any]] = [
        {"id": number, "kind": "transfer", "source": source, "destination": destination, "amount": cents}
        for number in range(first_id, first_id + count)
    ]
    with engine.begin() as connection:
        connection.execute(insert(transfers), rows)
    return [row["id"] for row in rows]


def plan(engine: Engine, count: int, *, seconds: float, **accepted: int) -> list[int]:
    """Record transfers that are planned for so many seconds from now."""
    ids = accept(engine, count, **accepted)
    come(engine, *ids, seconds=seconds)
    return ids


def due(number: int, *, source: int = 1, destination: int = 2, cents: int = 1, trace: str | None = None) -> Due:
    """What a transport carries of a transfer as :func:`accept` records it."""
    return Due(number, source, destination, cents, trace)


def free_turn(engine: Engine) -> None:
    """Let the turn be over of a relay that was killed."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM turns"))


def take_turn(engine: Engine, *, seconds: float) -> UUID:
    """Give the relay's turn to somebody else, and return who that is."""
    with engine.begin() as connection:
        holder: UUID = connection.execute(
            text(
                "INSERT INTO turns VALUES (:name, gen_random_uuid(), now() + :seconds * interval '1 s') ON CONFLICT"
                " (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at RETURNING holder"
            ),
            {"name": TURN, "seconds": seconds},
        ).scalar_one()
        return holder


def find_turn(engine: Engine) -> tuple[UUID, bool]:
    """Return who had the relay's turn last, and whether it still is."""
    with engine.connect() as connection:
        row = connection.execute(text("SELECT holder, expires_at > now() AS lasts FROM turns")).one()
        return row.holder, row.lasts


def enqueue(client: redis.Redis, ids: Iterable[int]) -> None:
    """Put jobs on the queue as a request does."""
    RqKeys(client).enqueue([NewJob(each, None) for each in ids])


def backlog(engine: Engine, client: redis.Redis, count: int, **accepted: int) -> list[int]:
    """Record transfers and enqueue them."""
    ids = accept(engine, count, **accepted)
    enqueue(client, ids)
    return ids


def kill_off(engine: Engine, ids: Sequence[int], *, attempts: int = 4) -> None:
    """Turn pending transfers into dead letters."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE transfers SET status = 'failed', reason = 'attempts_exhausted', attempts = :attempts,"
                " last_error = 'told to', completed_at = now() WHERE id = ANY (:ids)"
            ),
            {"ids": list(ids), "attempts": attempts},
        )


def rows_of(engine: Engine, ids: Iterable[int]) -> dict[int, Row[Any]]:
    """Return the rows of transfers by their ids."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT *, next_attempt_at <= now() AS due FROM transfers WHERE id = ANY (:ids)"), {"ids": list(ids)}
        )
        return {row.id: row for row in found}


def row_of(engine: Engine, transfer_id: int) -> Row[Any]:
    """Return one transfer's row."""
    return rows_of(engine, [transfer_id])[transfer_id]


def statuses(engine: Engine, ids: Iterable[int]) -> set[str]:
    """Return the statuses that there are among these transfers."""
    return {row.status for row in rows_of(engine, ids).values()}


def are_final(engine: Engine, ids: Sequence[int]) -> bool:
    """Whether none of them is pending any more."""
    return "pending" not in statuses(engine, ids)


def count_pending(engine: Engine) -> int:
    """How many transfers are not final."""
    with engine.connect() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM transfers WHERE status = 'pending'")).scalar_one()
        return count


def balance_of(engine: Engine, user: int) -> int:
    """A wallet's cents."""
    with engine.connect() as connection:
        found: int = connection.execute(
            text("SELECT balance FROM wallets WHERE id = :user"), {"user": user}
        ).scalar_one()
        return found


def assert_posted_once(engine: Engine, ids: Sequence[int], *, cents: int = 1) -> None:
    """All are posted, user 2 has got each of them once, and the books balance."""
    assert statuses(engine, ids) == {"posted"}
    assert balance_of(engine, 2) == OPENING_CENTS + len(ids) * cents
    check_books(engine)


def make_due(engine: Engine) -> None:
    """Let the time until every next attempt be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE transfers SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL"))


@contextmanager
def fault_on(engine: Engine, ids: Iterable[int], body: str = REFUSES) -> Iterator[None]:
    """Let something go wrong whenever one of these transfers is posted."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_TRIGGER.format(body=body, ids=",".join(map(str, ids))))
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(_NO_TRIGGER)


@contextmanager
def fault_on_all(engine: Engine, table: str, body: str) -> Iterator[None]:
    """Let the same go wrong for every row that is written to a table, made-up ones as well."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE FUNCTION test_fault_of_all() RETURNS trigger LANGUAGE plpgsql AS $$"
            f"BEGIN {body} RETURN NEW; END $$;"
            f"CREATE TRIGGER test_fault_of_all BEFORE INSERT OR UPDATE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION test_fault_of_all()"
        )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION test_fault_of_all CASCADE")


@contextmanager
def locked(engine: Engine, statement: str) -> Iterator[Connection]:
    """Hold row locks, as somebody's long transaction does. Rolled back at the end, unless that came before."""
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
        try:
            yield connection
        finally:
            connection.rollback()


def stock_queue(client: redis.Redis) -> Queue:
    """RQ's own view of the queue."""
    return Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer)


def job_of(client: redis.Redis, job_id: int | str) -> Job:
    """Fetch a job as rq-dashboard does."""
    return Job.fetch(str(job_id), connection=client, serializer=JSONSerializer)


def status_of(client: redis.Redis, job_id: int | str) -> str:
    """RQ's status of a job."""
    return str(job_of(client, job_id).get_status().value)


def queued(client: redis.Redis) -> list[str]:
    """The queue, first to last."""
    raw: Any = client  # whose replies are typed for clients that decode as well as for those that do not
    return [each.decode() for each in raw.lrange(QUEUE, 0, -1)]


def members(client: redis.Redis, registry: str) -> dict[str, float]:
    """A registry's members by what they are sorted by. Read past RQ, whose own reading cleans up."""
    raw: Any = client
    return {member.decode(): score for member, score in raw.zrange(registry, 0, -1, withscores=True)}


def names_in(client: redis.Redis) -> set[str]:
    """The names of all keys that there are, but for what is measured every second."""
    raw: Any = client
    return {name.decode() for name in raw.keys("*")} - {MOST}


def results_of(client: redis.Redis, job_id: int | str) -> list[dict[str, bytes]]:
    """The result stream of a job, oldest first."""
    raw: Any = client
    stream = raw.xrange(f"rq:results:{job_id}")
    return [{name.decode(): value for name, value in fields.items()} for _, fields in stream]


def hash_of(client: redis.Redis, job_id: int | str) -> dict[str, bytes]:
    """A job's hash."""
    raw: Any = client
    return {name.decode(): value for name, value in raw.hgetall(f"rq:job:{job_id}").items()}


def expire_leases(client: redis.Redis) -> None:
    """Let every lease run out at once."""
    for member in members(client, STARTED):
        client.zadd(STARTED, {member: 1.0})
