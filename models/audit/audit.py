"""Auditing: proving the books right while they are being written, a slice at a time.

An audit is a row of checks, each a walk over some facts. A slice of a walk is one short reading statement, hence one
snapshot: what is compared with each other was true at the same moment, however much is posted meanwhile. Where an audit
stands is plain data (:class:`Progress`), so that any process can go on from there.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

# Offenders that are named for each invariant; the others are counted.
MAX_IDS = 20

# Where a check stands: JSON, and nobody's business but the check's. Empty at the beginning.
Position: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An invariant that does not hold: its name, how many break it, the ids of some, and about one of them more."""

    invariant: str
    count: int
    ids: list[str]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What came of one slice.

    ``position``: where to go on; None: the check is done. ``checked``: how many of what were looked at.
    ``pause_s``: how long there is no point in going on.
    """

    position: Position | None
    checked: Mapping[str, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    pause_s: float = 0.0


class Check(Protocol):
    """A walk over some facts: the books, the queue, the cache."""

    @property
    def name(self) -> str:
        """Return what it is called in a :class:`Progress`."""

    def run(self, position: Position, limit: int) -> Slice:
        """Look at no more than ``limit`` things of each kind, from a position on.

        Raises:
            Unavailable: the database is away, or the slice too large for the time that a statement may take.
        """


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where an audit stands, and what it has found: all that it takes to go on.

    ``id``: its row in the table; None if it has none, yet. ``check``: which is next; None when all are done.
    """

    started_at: datetime
    check: str | None
    id: int | None = None
    position: Position = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)


def run_slice(checks: Sequence[Check], progress: Progress, *, limit: int) -> Slice:
    """Run the next slice of an audit that is not done, and take it into ``progress``.

    Raises:
        Unavailable: see :meth:`Check.run`; the audit stands where it stood.
    """
    names = [check.name for check in checks]
    # A check that is known no longer was another release's: the audit begins again with the first.
    number = names.index(progress.check) if progress.check in names else 0
    done = checks[number].run(progress.position, limit)
    for what, count in done.checked.items():
        progress.checked[what] = progress.checked.get(what, 0) + count
    for finding in done.findings:
        progress.findings[finding.invariant] = _merge(progress.findings.get(finding.invariant), finding)
    if done.position is None:
        progress.check = names[number + 1] if number + 1 < len(names) else None
    else:
        progress.check = names[number]
    progress.position = done.position or {}
    return done


def run_whole(
    checks: Sequence[Check], *, limit: int, progress: Progress | None = None
) -> Iterator[tuple[Progress, Slice]]:
    """Run an audit to its end in the foreground, pauses and all, and tell where it stands after each slice.

    Args:
        checks: one after the other.
        limit: of each slice.
        progress: where to go on; None: from the beginning.

    Raises:
        Unavailable: see :meth:`Check.run`.
    """
    progress = progress or Progress(started_at=datetime.now(UTC), check=checks[0].name)
    while progress.check is not None:
        done = run_slice(checks, progress, limit=limit)
        yield progress, done
        time.sleep(done.pause_s)


def finding(invariant: str, ids: Iterable[str], detail: str) -> Finding:
    """Make a finding of all the ids that break an invariant."""
    every = list(dict.fromkeys(ids))
    return Finding(invariant=invariant, count=len(every), ids=every[:MAX_IDS], detail=detail)


def _merge(earlier: Finding | None, later: Finding) -> Finding:
    """Add up two slices' findings. A transfer that two slices find is counted once for each as long as it is named."""
    if earlier is None:
        return later
    repeated = len(set(earlier.ids) & set(later.ids))
    return Finding(
        invariant=earlier.invariant,
        count=earlier.count + later.count - repeated,
        ids=list(dict.fromkeys([*earlier.ids, *later.ids]))[:MAX_IDS],
        detail=earlier.detail,
    )
