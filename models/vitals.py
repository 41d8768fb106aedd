"""What PostgreSQL tells of the whole service at a glance, for whoever watches it. Each is one bounded statement."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Engine, text

from models.audit import record
from models.database.engine import fetch_all
from models.ledger.attempts import BEGINNING, Place

# Beyond that a backlog is merely large, and counting it would be a load of its own.
MAX_COUNTED = 100_000
# Of those that tell of events. They are numbered in less than a second.
MAX_EVENT_BATCHES = 10_000
# What our processes call themselves begins with this (``application_name``); and what asks all of this is called.
NAME_PREFIX = "wallet-"
OBSERVER = "wallet-metrics"
IN_USE, IDLE = "in_use", "idle"


class Sessions(NamedTuple):
    """Connections by the kind of process that has them and whether they are in use; how many wait for a lock."""

    connections: dict[tuple[str, str], int]
    lock_waits: int


class Backlog(NamedTuple):
    """Transfers that are not settled, each count up to :data:`MAX_COUNTED`; the age is 0 when none is pending.

    ``planned``: those that nobody is to try before an instant that has yet to come; they are not among ``pending``.
    ``oldest_pending_s``: seconds since it was accepted, or since the instant that it was planned for.
    """

    pending: int
    oldest_pending_s: float
    dead_letters: int
    planned: int = 0


class EventBacklog(NamedTuple):
    """Events that have no number yet, and the age of the oldest, 0 without one; of so many batches, at most."""

    events: int
    oldest_s: float


class Leases(NamedTuple):
    """Node ids that are leased now, and the seconds until the first of them is not; None when there are none."""

    held: int
    first_ends_in_s: float | None


class WebhookBacklog(NamedTuple):
    """Webhooks, and what enabled ones are still to be told of: deliveries, up to :data:`MAX_COUNTED`, and its age."""

    enabled: int
    disabled: int
    pending: int
    oldest_s: float


class LastAudit(NamedTuple):
    """How the last audit of the books ended."""

    finished_at: datetime
    findings: int


_FROZEN = text(f"""
SELECT count(*) AS frozen FROM (
    SELECT FROM wallets WHERE debits_frozen OR credits_frozen LIMIT {MAX_COUNTED}
) AS found
""")  # noqa: S608 - a number of ours
# A session between two statements of a transaction is in use.
_SESSIONS = text("""
SELECT application_name, state = 'idle' AS is_idle, count(*) AS connections,
    count(*) FILTER (WHERE wait_event_type = 'Lock') AS lock_waits
FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' GROUP BY 1, 2
""")
_BACKLOG = text("""
SELECT count(*) FILTER (WHERE NOT is_planned) AS pending, count(*) FILTER (WHERE is_planned) AS planned,
    extract(epoch FROM clock_timestamp() - min(since) FILTER (WHERE NOT is_planned)) AS oldest_pending_s,
    (SELECT count(*) FROM (SELECT FROM transfers WHERE status = 'failed' LIMIT :most) AS dead) AS dead_letters
FROM (
    SELECT greatest(created_at, not_before) AS since, coalesce(not_before > now(), false) AS is_planned FROM transfers
    WHERE status = 'pending' AND (coalesce(next_attempt_at, created_at), id) > (CAST(:due AS timestamptz), :id)
    ORDER BY coalesce(next_attempt_at, created_at), id LIMIT :most
) AS counted
""").bindparams(most=MAX_COUNTED)
_EVENT_BACKLOG = text("""
SELECT coalesce(sum(cardinality(transfers)), 0) AS events,
    extract(epoch FROM clock_timestamp() - min(created_at)) AS oldest_s
FROM (
    SELECT transfers, created_at FROM event_batches
    WHERE position IS NULL AND id > (SELECT settled FROM event_head) ORDER BY id LIMIT :most
) AS counted
""").bindparams(most=MAX_EVENT_BATCHES)
# Of each that is enabled: the first delivery that was planned and is not over, and the first event that has none yet.
_WEBHOOKS = text("""
WITH enabled AS MATERIALIZED (
    SELECT id, upto FROM webhooks WHERE deleted_at IS NULL AND disabled_at IS NULL
), waiting AS (
    SELECT first.created_at FROM enabled CROSS JOIN LATERAL (
        SELECT created_at FROM webhook_deliveries WHERE webhook_id = enabled.id AND status = 'pending'
        ORDER BY number LIMIT 1
    ) AS first
    UNION ALL
    SELECT first.created_at FROM enabled JOIN event_head ON enabled.upto < event_head.last_event CROSS JOIN LATERAL (
        SELECT created_at FROM event_batches WHERE position <= enabled.upto + 1 ORDER BY position DESC LIMIT 1
    ) AS first
)
SELECT (SELECT count(*) FROM enabled) AS enabled,
    (SELECT count(*) FROM webhooks WHERE deleted_at IS NULL AND disabled_at IS NOT NULL) AS disabled,
    (SELECT count(*) FROM (
        SELECT FROM enabled CROSS JOIN LATERAL (
            SELECT FROM webhook_deliveries WHERE webhook_id = enabled.id AND status = 'pending'
        ) AS each LIMIT :most
    ) AS counted) AS pending,
    extract(epoch FROM clock_timestamp() - min(created_at)) AS oldest_s
FROM waiting
""").bindparams(most=MAX_COUNTED)
_LEASES = text("""
SELECT count(*) AS held, extract(epoch FROM min(expires_at) - clock_timestamp()) AS first_ends_in_s
FROM snowflake_nodes WHERE holder IS NOT NULL AND expires_at > clock_timestamp()
""")


def find_sessions(engine: Engine) -> Sessions:
    """Count the sessions of this database, those of our processes by their names.

    Raises:
        Unavailable: the database cannot be reached.
    """
    rows = fetch_all(engine, _SESSIONS)
    ours = [row for row in rows if row.application_name.startswith(NAME_PREFIX) and row.application_name != OBSERVER]
    connections = {
        (row.application_name.removeprefix(NAME_PREFIX), IDLE if row.is_idle else IN_USE): row.connections
        for row in ours
    }
    return Sessions(connections, sum(row.lock_waits for row in rows))


def find_backlog(engine: Engine, *, after: Place = BEGINNING) -> Backlog:
    """Count what is pending and what has failed: a look at two partial indexes, not at all of the table.

    Args:
        engine: of the books.
        after: before which nothing is pending (models/ledger/frontier.py).

    Raises:
        Unavailable: the database cannot be reached, or is not migrated.
    """
    (row,) = fetch_all(engine, _BACKLOG.bindparams(due=after.due, id=after.id))
    # A server whose clock was set back has rows of the future.
    return Backlog(row.pending, max(0.0, float(row.oldest_pending_s or 0)), row.dead_letters, row.planned)


def find_event_backlog(engine: Engine) -> EventBacklog:
    """Count the events that nobody can read yet, though they have happened.

    Raises:
        Unavailable: the database cannot be reached, or is not migrated.
    """
    (row,) = fetch_all(engine, _EVENT_BACKLOG)
    return EventBacklog(int(row.events), max(0.0, float(row.oldest_s or 0)))


def find_frozen(engine: Engine) -> int:
    """Count the wallets that are frozen, up to :data:`MAX_COUNTED`: a look at an index of these alone.

    Raises:
        Unavailable: the database cannot be reached, or is not migrated.
    """
    return int(fetch_all(engine, _FROZEN)[0].frozen)


def find_webhook_backlog(engine: Engine) -> WebhookBacklog:
    """Count webhooks, and what they are still to be told of.

    Raises:
        Unavailable: the database cannot be reached, or is not migrated.
    """
    (row,) = fetch_all(engine, _WEBHOOKS)
    return WebhookBacklog(row.enabled, row.disabled, row.pending, max(0.0, float(row.oldest_s or 0)))


def find_leases(engine: Engine) -> Leases:
    """Count the leases of Snowflake nodes.

    Raises:
        Unavailable: the database cannot be reached, or is not migrated.
    """
    (row,) = fetch_all(engine, _LEASES)
    return Leases(row.held, None if row.first_ends_in_s is None else float(row.first_ends_in_s))


def find_last_audit(engine: Engine) -> LastAudit | None:
    """Return how the last audit ended, None when there has been none.

    Raises:
        Unavailable: the database cannot be reached.
    """
    last = record.find_last(engine)
    return None if last is None or last.finished_at is None else LastAudit(last.finished_at, len(last.findings))
