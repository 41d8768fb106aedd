"""Looking over PostgreSQL: what has to be so for the promises to hold, and how to mend what is not."""

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database import suitability
from models.database.engine import fetch_all
from models.database.faults import first_line
from models.database.room import find_room
from models.errors import Unavailable
from models.schema import revision
from models.schema.tables import GUARDS
from models.snowflake.ids import MAX_WAIT_MS

# Half a lease of a Snowflake node is more than anything here forgives.
SKEW_WARN_S, SKEW_FAIL_S = 1.0, 15.0
PENDING_WARN_S = 60.0
# Each process holds one, and one that dies keeps its own for half a minute.
FREE_NODES_WARN = 64
# Beyond so many, "more than" says as much.
MAX_COUNTED = 1_000

_ON = frozenset({"on", "remote_apply", "remote_write"})

_FACTS = text("""
SELECT current_setting('server_version') AS version,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes,
    extract(epoch FROM clock_timestamp())::float8 AS now_s
""")
_LEDGER = text("""
SELECT (SELECT count(*) FROM snowflake_nodes WHERE expires_at <= now()
        AND reserved_until_ms <= extract(epoch FROM now()) * 1000 + :wait_ms) AS free_nodes,
    (SELECT count(*) FROM (SELECT FROM transfers WHERE status = 'failed' LIMIT :most) dead) AS dead_letters,
    (SELECT extract(epoch FROM now() - greatest(created_at, not_before))::float8 FROM transfers
     WHERE status = 'pending' AND coalesce(next_attempt_at, created_at) <= now()
     ORDER BY coalesce(next_attempt_at, created_at), id LIMIT 1) AS pending_s,
    (SELECT coalesce(jsonb_object_agg(tgname, tgenabled IN ('O', 'A')), '{}') FROM pg_trigger
     WHERE NOT tgisinternal) AS triggers
""")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"  # as it should be
    WARN = "warn"  # works, and will not for ever or not as well as it could
    FAIL = "FAIL"  # a promise is broken, or somebody cannot be served


class Finding(NamedTuple):
    """What was found of one thing, and how to mend it if it is not ok."""

    name: str
    level: Level
    what: str
    remedy: str | None = None


def check_postgres(engine: Engine, *, connections_wanted: int) -> list[Finding]:
    """Look over the server and the books. A server that cannot be reached is a finding like others.

    Args:
        engine: its timeouts bound how long this takes.
        connections_wanted: what the processes of this service may open at most, all together.
    """
    try:
        if objection := suitability.find_objection(engine):
            return [
                Finding("postgres", Level.FAIL, f"DATABASE_URL {objection}", "let DATABASE_URL lead to the primary")
            ]
        asked_s = time.time()
        facts = fetch_all(engine, _FACTS)[0]
        connections = _connections(engine, connections_wanted)
    except (DBAPIError, PoolTimeoutError, Unavailable) as error:
        refusal = suitability.find_refusal(error) if isinstance(error, DBAPIError) else None
        what = f"DATABASE_URL {refusal}" if refusal else first_line(error)
        return [Finding("postgres", Level.FAIL, what, "start it (make run), or correct DATABASE_URL")]
    skew_s = float(facts.now_s) - (asked_s + time.time()) / 2
    return [
        Finding("postgres", Level.OK, f"version {facts.version}"),
        *_durability(facts),
        check_skew("postgres clock", skew_s),
        connections,
        *_books(engine),
    ]


def check_skew(name: str, skew_s: float) -> Finding:
    """Judge how far a server's clock is from the one here, in seconds."""
    level = Level.OK if abs(skew_s) < SKEW_WARN_S else Level.WARN if abs(skew_s) < SKEW_FAIL_S else Level.FAIL
    what = f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
    return Finding(name, level, what, None if level is Level.OK else "let NTP set the clocks of both machines")


def _durability(facts: Row[Any]) -> list[Finding]:
    """Look at the settings without which what was answered could revert."""
    findings = []
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        value = getattr(facts, name)
        good = value in _ON
        remedy = None if good else f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()"
        findings.append(Finding(name, Level.OK if good else Level.FAIL, value, remedy))
    return findings


def _connections(engine: Engine, wanted: int) -> Finding:
    """Compare what this service may take with what there is."""
    room = find_room(engine)
    what = f"{room}, this service may take {wanted}"
    if wanted <= room.left:
        return Finding("connections", Level.OK, what)
    remedy = f"raise what {room.who} allows, or lower DB_CONNECTIONS or the number of processes"
    return Finding("connections", Level.WARN, what, remedy)


def _books(engine: Engine) -> list[Finding]:
    if (readiness := revision.readiness(engine)) != "ok":
        return [Finding("migrations", Level.FAIL, readiness, "python -m ops.prepare")]
    try:
        found = fetch_all(engine, _LEDGER.bindparams(most=MAX_COUNTED + 1, wait_ms=MAX_WAIT_MS))[0]
    except Unavailable as error:
        remedy = "see that DATABASE_URL's role owns the tables, and what PostgreSQL logs"
        return [Finding("books", Level.FAIL, first_line(error), remedy)]
    return [
        Finding("migrations", Level.OK, f"at {revision.NEWEST}"),
        _guards(found.triggers),
        _free_nodes(found.free_nodes),
        _dead_letters(found.dead_letters),
        _pending(found.pending_s),
    ]


def _guards(triggers: Mapping[str, bool]) -> Finding:
    """Whether what was answered as final is still nobody's to change: an owner who mends books by hand may forget.

    Args:
        triggers: those there are, and whether each is on.
    """
    wrong = sorted(name for name in GUARDS if not triggers.get(name))
    if not wrong:
        return Finding("guards", Level.OK, f"{len(GUARDS)} on")
    remedies = (
        f"ALTER TABLE {GUARDS[name]} ENABLE TRIGGER {name}"
        if name in triggers
        else f"create {name} as its migration does"
        for name in wrong
    )
    return Finding("guards", Level.WARN, f"off or gone: {', '.join(wrong)}", "; ".join(remedies))


def _free_nodes(count: int) -> Finding:
    level = Level.FAIL if not count else Level.WARN if count < FREE_NODES_WARN else Level.OK
    remedy = "run fewer processes; see that no clock leaps: one that was used in the future is free when that has come"
    return Finding("snowflake nodes", level, f"{count} free", None if level is Level.OK else remedy)


def _dead_letters(count: int) -> Finding:
    what = f"more than {MAX_COUNTED}" if count > MAX_COUNTED else str(count)
    if not count:
        return Finding("dead letters", Level.OK, what)
    return Finding("dead letters", Level.WARN, what, "flask dead-letters list, then flask dead-letters requeue")


def _pending(age_s: float | None) -> Finding:
    if age_s is None:
        return Finding("pending", Level.OK, "no transfer is due")
    what = f"the oldest transfer that is due waits for {age_s:.0f} s"
    if age_s < PENDING_WARN_S:
        return Finding("pending", Level.OK, what)
    return Finding("pending", Level.WARN, what, "see that workers run (python worker.py), and what they log")
