"""From where on something may be pending: whoever looks for it begins there, and not with the oldest there ever was.

What is settled leaves an entry in the index of what is pending until vacuum removes it, which it cannot while somebody
holds a snapshot, as a backup does for hours. A look from the left end goes through all of these, each time. But nothing
becomes pending in the past: it is due from the instant at which it is recorded, reopened, or to be tried again, all by
PostgreSQL's clock. So what was empty stays empty, but for transactions that were under way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg2.errors import QueryCanceled
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.attempts import BEGINNING, Page, Place

# A transaction that records or postpones something ends this soon after it has begun. What takes longer is found when
# all is looked through.
MARGIN_S = 15.0
# All is looked through this often, at most, and rests this many times as long as it took: a five-hundredth of the time.
WHOLE_S = 60.0
WHOLE_REST = 500.0
# A look that takes longer than this is followed by narrower ones.
SLOW_S = 0.1
LEAST_SHARE = 1 / 64
# So long is looked on where nothing is found.
PATIENCE_S = 0.1

_END = Place(datetime.max.replace(tzinfo=UTC), 0)


class Frontier:
    """What one process knows of it. Not thread-safe."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at nothing yet. ``clock``: seconds, of any clock."""
        self._engine = engine
        self._clock = clock
        self._begin = BEGINNING
        self._whole_at = clock()
        self._round: _Round | None = None
        # How much of what is ahead a look takes in: of a look through everything, and of any other.
        self._shares = {True: 1.0, False: 1.0}

    @property
    def is_between(self) -> bool:
        """Whether all there is has been looked through, and the next page is the first one again."""
        return self._round is None

    def next_page(self, limit: int) -> list[int]:
        """Return the ids of the next transfers that are pending and due: fewer than ``limit``, or none, now and then.

        Raises:
            Unavailable: PostgreSQL is away, or too slow; the next page is looked for where this one was.
        """
        until = time.perf_counter() + PATIENCE_S
        while True:
            self._round = self._round or self._start()
            ids = self._look(self._round, limit)
            if ids or self._round is None or time.perf_counter() > until:
                return ids

    def find_begin(self, patience_s: float) -> Place | None:
        """Return what nothing pending stands before, None if that is not to be found out within the time.

        Raises:
            Unavailable: as :meth:`next_page`.
        """
        until = time.perf_counter() + patience_s
        while True:
            ids = self.next_page(1)
            if ids and self._round is not None:
                self._end(self._round)
            if self._round is None:
                return self._begin
            if time.perf_counter() > until:
                return None

    def _start(self) -> "_Round":
        is_whole = self._clock() >= self._whole_at
        return _Round(is_whole, BEGINNING if is_whole else self._begin)

    def _look(self, this: "_Round", limit: int) -> list[int]:
        began = time.perf_counter()
        try:
            page = attempts.find_pending(self._engine, after=this.after, limit=limit, share=self._shares[this.is_whole])
        except Unavailable as error:
            if isinstance(error.__cause__, DBAPIError) and isinstance(error.__cause__.orig, QueryCanceled):
                self._narrow(this, 16)
            raise
        spent_s = time.perf_counter() - began
        this.note(page, spent_s)
        if spent_s > SLOW_S:
            self._narrow(this, 2)
        elif not this.is_whole:
            self._widen(this)
        if page.is_last:
            self._end(this)
        return page.ids

    def _narrow(self, this: "_Round", divisor: int) -> None:
        this.was_narrowed = True
        self._shares[this.is_whole] = max(LEAST_SHARE, self._shares[this.is_whole] / divisor)

    def _widen(self, this: "_Round") -> None:
        self._shares[this.is_whole] = min(1.0, self._shares[this.is_whole] * 2)

    def _end(self, this: "_Round") -> None:
        """Begin the next round before whatever is pending, and before what may have been recorded during this one."""
        self._round = None
        self._begin = this.before
        if this.is_whole:
            if not this.was_narrowed:
                self._widen(this)
            self._whole_at = self._clock() + max(WHOLE_S, WHOLE_REST * this.spent_s)


@dataclass(slots=True)
class _Round:
    """Once through what is ahead. ``before``: where the next one is to begin, as of what this one has seen."""

    is_whole: bool
    after: Place
    before: Place = _END
    spent_s: float = 0.0
    was_narrowed: bool = False

    def note(self, page: Page, spent_s: float) -> None:
        """Take in what a look has found, and what it took."""
        self.spent_s += spent_s
        self.after = page.end
        self.before = min(self.before, Place(page.looked_at - timedelta(seconds=MARGIN_S), 0))
        if page.first is not None:
            self.before = min(self.before, Place(page.first.due, page.first.id - 1))
