"""The record of audits: the one under way, so that whoever comes next goes on with it, and the last ones' results."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, func, insert, select, text, update
from sqlalchemy.dialects import postgresql

from models.audit.audit import Finding, Position, Progress
from models.database.engine import fetch_all, transaction
from models.schema.tables import audits

# How many finished audits are kept, of those that were right and of those that were not; and for how many days at least
# those that were not. A trigger of the owner's sees to that (migration 0005): the service may delete none.
KEPT, BROKEN_KEPT_DAYS = 100, 90
# What another release has left half-done may mean something else to it: it is begun again.
CURSOR_FORMAT = 2
_COUNTED = ("wallets", "entries", "transfers")
_ESTIMATE = text("""
SELECT sum(greatest(reltuples, 0)) AS rows FROM pg_class
WHERE oid IN (CAST('entries' AS regclass), CAST('transfers' AS regclass))
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What an audit came to; ``ok`` and ``finished_at`` are None as long as it is under way."""

    started_at: datetime
    finished_at: datetime | None
    ok: bool | None
    wallets: int
    entries: int
    transfers: int
    findings: list[Finding]


def find_last(engine: Engine) -> AuditResult | None:
    """Return what the last finished audit came to.

    Raises:
        Unavailable: the database cannot be reached.
    """
    finished = select(audits).where(audits.c.finished_at.is_not(None)).order_by(audits.c.id.desc()).limit(1)
    return next(map(_result, fetch_all(engine, finished)), None)


def find_under_way(engine: Engine) -> AuditResult | None:
    """Return how far the audit under way is, as of its last save.

    Raises:
        Unavailable: the database cannot be reached.
    """
    return next(map(_result, fetch_all(engine, select(audits).where(audits.c.finished_at.is_(None)))), None)


def begin_or_resume(engine: Engine, *, first_check: str, interval_s: float) -> Progress | float:
    """Return the audit under way, or begin one; or in how many seconds the next is due.

    Raises:
        Unavailable: the database cannot be reached.
    """
    age_s = func.extract("epoch", func.now() - audits.c.started_at)
    newest = select(audits, age_s.label("age_s")).order_by(audits.c.finished_at.is_not(None), audits.c.id.desc())
    rows = fetch_all(engine, newest.limit(1))
    if rows and rows[0].finished_at is None:
        return _progress(rows[0], first_check)
    # One of the future was begun by a clock that was ahead, and says nothing of when the next is due.
    if rows and 0 <= rows[0].age_s < interval_s:
        return interval_s - float(rows[0].age_s)
    # Should somebody else begin one just now, it is found at the next look.
    begun = postgresql.insert(audits).values(cursor=_cursor(first_check, {}))
    with transaction(engine) as connection:
        row = connection.execute(begun.on_conflict_do_nothing().returning(audits)).first()
    return 0.0 if row is None else _progress(row, first_check)


def save(engine: Engine, progress: Progress) -> bool:
    """Record how far an audit is; return False if it has ended meanwhile, by somebody else's hand.

    Raises:
        Unavailable: the database cannot be reached.
    """
    cursor = _cursor(progress.check, progress.position)
    changed = update(audits).where(audits.c.id == progress.id, audits.c.finished_at.is_(None))
    with transaction(engine) as connection:
        saved = connection.execute(changed.values(cursor=cursor, **_columns(progress)).returning(audits.c.id))
        return saved.first() is not None


def finish(engine: Engine, progress: Progress) -> AuditResult | None:
    """Record what an audit came to; return None if somebody else has ended it.

    Raises:
        Unavailable: the database cannot be reached.
    """
    own = update(audits).where(audits.c.id == progress.id, audits.c.finished_at.is_(None))
    with transaction(engine) as connection:
        row = connection.execute(own.values(**_ended(progress)).returning(audits)).first()
    return None if row is None else _result(row)


def record(engine: Engine, progress: Progress) -> AuditResult:
    """Record an audit of which nothing was recorded before: one that was run in the foreground.

    Raises:
        Unavailable: the database cannot be reached.
    """
    # By the clock here, which may be ahead of PostgreSQL's: the next one would be due when that has come.
    started_at = func.least(progress.started_at, func.now())
    new = insert(audits).values(started_at=started_at, **_ended(progress))
    with transaction(engine) as connection:
        return _result(connection.execute(new.returning(audits)).one())


def estimate_work(engine: Engine) -> int:
    """Return about how many entries and transfers there are, as of PostgreSQL's own statistics: for a progress bar.

    Raises:
        Unavailable: the database cannot be reached.
    """
    return int(fetch_all(engine, _ESTIMATE)[0].rows)


def _cursor(check: str | None, position: Position) -> dict[str, Any]:
    return {"format": CURSOR_FORMAT, "check": check, "position": dict(position)}


def _columns(progress: Progress) -> dict[str, Any]:
    counts = {name: progress.checked.get(name, 0) for name in _COUNTED}
    return {"findings": [asdict(finding) for finding in progress.findings.values()], **counts}


def _ended(progress: Progress) -> dict[str, Any]:
    return {"cursor": None, "finished_at": func.now(), "ok": not progress.findings} | _columns(progress)


def _progress(row: Row[Any], first_check: str) -> Progress:
    cursor: dict[str, Any] = row.cursor
    if cursor.get("format") != CURSOR_FORMAT:
        return Progress(id=row.id, started_at=row.started_at, check=first_check)
    findings = [Finding(**finding) for finding in row.findings]
    return Progress(
        id=row.id,
        started_at=row.started_at,
        check=cursor["check"],
        position=cursor["position"],
        checked={name: getattr(row, name) for name in _COUNTED},
        findings={finding.invariant: finding for finding in findings},
    )


def _result(row: Row[Any]) -> AuditResult:
    return AuditResult(
        started_at=row.started_at,
        finished_at=row.finished_at,
        ok=row.ok,
        wallets=row.wallets,
        entries=row.entries,
        transfers=row.transfers,
        findings=[Finding(**finding) for finding in row.findings],
    )
