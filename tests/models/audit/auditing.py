"""Auditing from beginning to end, for tests."""

from collections.abc import Sequence
from datetime import UTC, datetime

from models.audit.audit import Check, Finding, Position, Progress, run_whole


def begun(
    check: str = "books", position: Position | None = None, *, findings: dict[str, Finding] | None = None
) -> Progress:
    """An audit that has nothing but begun."""
    return Progress(started_at=datetime.now(UTC), check=check, position=position or {}, findings=dict(findings or {}))


def audit(checks: Sequence[Check], *, limit: int = 2_000, progress: Progress | None = None) -> Progress:
    """Run all of an audit, or what is left of it."""
    *_, (progress, _) = run_whole(checks, limit=limit, progress=progress)
    assert progress.check is None
    return progress


def broken(checks: Sequence[Check], *, limit: int = 2_000) -> dict[str, list[str]]:
    """Return the invariants that an audit finds broken, with the ids of the offenders."""
    return {each.invariant: each.ids for each in audit(checks, limit=limit).findings.values()}
