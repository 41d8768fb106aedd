"""The auditor: proves books, queue and cache right again and again, a slice at a time, in the pauses of the relay.

The relay's lock makes it one auditor at a time. Should there be two for a moment, each goes on from the same record,
and the record is that of whoever saves last; neither can find what is not there.
"""

import time
from collections.abc import Callable

import redis
import structlog
from sqlalchemy import Engine

from jobs.transport import Backlog
from models.audit import record
from models.audit.audit import Check, Finding, Progress, run_slice
from models.audit.books import BooksCheck
from models.audit.cached import CacheCheck
from models.database.engine import less_patient
from models.database.faults import first_line
from models.errors import Unavailable
from observe import background

# What a slice looks at: some 30 milliseconds' worth. One that takes too long is followed by a smaller one. There is one
# in a pass of the relay, at most: with 2,000 a round through 100 million transfers took ten hours for the pauses alone.
MAX_SLICE, MIN_SLICE = 4_000, 50
# The longest that a slice may hold up the relay, which has a lock to prolong.
SLICE_TIMEOUT_MS = 1_000
# After a slice, at least this many times as long as it took belongs to others: an audit may take a fifth of one core.
REST = 4.0
# After a slice that failed.
RETRY_S = 10.0
# How much of an audit is walked through again when its process is killed.
SAVE_S = 5.0
# Whoever waits for the next audit to be due looks into the record now and then: somebody else may have begun it.
LOOK_S = 30.0

_log = structlog.get_logger("audit")


def make_checks(engine: Engine, backlog: Backlog, cache: redis.Redis | None = None) -> list[Check]:
    """Return all that an audit consists of, in this order.

    Args:
        engine: of the books.
        backlog: what carries transfers to the workers.
        cache: a client of the cache's; None: nothing is cached.
    """
    checks: list[Check] = [BooksCheck(engine), backlog.make_check(engine)]
    return checks if cache is None else [*checks, CacheCheck(engine, cache)]


class Auditor:
    """Audits one database, its queue and its cache, over and over. Whoever made the engine closes it."""

    def __init__(
        self,
        engine: Engine,
        backlog: Backlog,
        cache: redis.Redis | None = None,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it. ``interval_s``: from the beginning of an audit to that of the next; 0: none is ever begun."""
        self._engine = less_patient(engine, SLICE_TIMEOUT_MS)
        self._checks = make_checks(self._engine, backlog, cache)
        self._faults: tuple[type[Exception], ...] = (redis.RedisError, Unavailable, *backlog.faults)
        self._interval_s = interval_s
        self._clock = clock
        self._progress: Progress | None = None
        self._limit = MAX_SLICE
        self._next_at = self._save_at = 0.0

    def run_once(self) -> None:
        """Run one slice, if there is one to run now. Raises nothing: no fault of an audit may hold up a relay."""
        if not self._interval_s or self._clock() < self._next_at:
            return
        self._next_at = self._clock() + RETRY_S  # if it fails
        with background.guarded("audit"):
            try:
                if self._progress is None:
                    self._begin()
                if self._progress is not None:
                    self._go_on(self._progress)
            except self._faults as error:
                self._limit = max(MIN_SLICE, self._limit // 4)
                _log.warning("slice broken off", cause=first_line(error), next_limit=self._limit)

    def _begin(self) -> None:
        begun = record.begin_or_resume(self._engine, first_check=self._checks[0].name, interval_s=self._interval_s)
        if isinstance(begun, Progress):
            self._progress = begun
            self._save_at = self._clock() + SAVE_S
        else:
            self._next_at = self._clock() + min(begun, LOOK_S)

    def _go_on(self, progress: Progress) -> None:
        started_at = self._clock()
        known = set(progress.findings)
        done = run_slice(self._checks, progress, limit=self._limit)
        self._next_at = self._clock() + max(done.pause_s, REST * (self._clock() - started_at))
        self._limit = min(MAX_SLICE, self._limit * 2)
        news = [each for each in progress.findings.values() if each.invariant not in known]
        for each in news:
            log_finding(each)
        if progress.check is None:
            self._progress = None
            if record.finish(self._engine, progress):
                log_finished(progress)
        elif news or self._clock() >= self._save_at:
            self._save_at = self._clock() + SAVE_S
            if not record.save(self._engine, progress):
                self._progress = None


def log_finding(found: Finding) -> None:
    """Write what does not hold, when it is first seen in an audit."""
    _log.error("invariant broken", invariant=found.invariant, ids=found.ids, count=found.count, detail=found.detail)


def log_finished(progress: Progress) -> None:
    """Write what an audit came to."""
    broken = {name: found.count for name, found in progress.findings.items()}
    _log.info("audit finished", ok=not broken, broken=broken, **progress.checked)
