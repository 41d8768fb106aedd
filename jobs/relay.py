"""The relay: what puts pending transfers back on their way to the workers.

PostgreSQL knows what is pending; the transport may have forgotten it, never been told, or believe it in the hands of a
worker that is dead. The relay runs wherever a worker runs, one at a time by a lease in PostgreSQL. Losing that lease
costs a second look at the same things, never money: all it does may be done twice.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import redis
import structlog
from sqlalchemy import Engine

from jobs.auditor import Auditor
from jobs.feed import Feed
from jobs.transport import Backlog, Fed
from models.cache.wallet_cache import WalletCache
from models.database.faults import first_line
from models.database.turn import Turn
from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.frontier import Frontier
from observe import background, metrics

TURN = "relay"
# A relay that dies is followed by another after this many seconds.
TURN_S = 5.0
# Between two passes; retries are as punctual as this.
PAUSE_S = 0.25
# One that had nothing to do and took long is followed by a pause this many times as long: a tenth of the time, at most,
# is spent on looking, whatever there is to look through. Shorter than the turn, which is prolonged between passes.
REST = 9.0
LONGEST_PAUSE_S = 2.0
# Bounds of one pass.
PAGE = 1_000
PAGES = 10

_log = structlog.get_logger("relay")


class Relay:
    """Brings back what was lost, a bounded amount a pass."""

    def __init__(
        self,
        backlog: Backlog,
        engine: Engine,
        cache: WalletCache | None = None,
        feed: Feed | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backlog = backlog
        self._engine = engine
        self._cache = cache
        self._feed = feed
        self._clock = clock
        # How long the last pass told others of events: work, of which there is as much as was posted, and no look.
        self.told_s = 0.0
        self._frontier = Frontier(engine, clock=clock)
        # The page for which there was no room: the next pass goes on with it, so that the oldest are carried first.
        self._unfed: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether the last pass ended because there was no more room."""
        return bool(self._unfed)

    def run_once(self) -> int:
        """Look once through what dead workers hold and what is pending; return how many went back on their way.

        Raises:
            Exception: one of ``Backlog.faults``: the transport is away.
            Unavailable: PostgreSQL is away.
        """
        self._settle_kept_evictions()
        if self._feed is not None:
            self._feed.run_once()
        put_back = self._backlog.take_back()
        began = self._clock()
        self._backlog.announce()
        self.told_s = self._clock() - began
        for _ in range(PAGES):
            page = self._unfed or self._frontier.next_page(PAGE)
            restored, refused = self._restore(page)
            put_back += restored
            self._unfed = page if refused else []
            # An honest backlog is looked through a page a pass; where jobs are missing, faster.
            if refused or self._frontier.is_between or not restored:
                break
        metrics.relay_passes["ok"].inc()
        metrics.relay_last_pass.set_to_current_time()
        if put_back:
            metrics.relay_put_back.inc(put_back)
            _log.info("put back", jobs=put_back)
        return put_back

    def _settle_kept_evictions(self) -> None:
        """Do what writers could not tell the cache; should it still not answer, that is no reason to relay nothing."""
        if self._cache is not None:
            try:
                self._cache.settle_kept()
            except redis.RedisError as error:
                _log.warning("evictions stay kept", cause=first_line(error))

    def _restore(self, page: Sequence[int]) -> Fed:
        """Put those of a page of pending transfers back on that the transport has lost."""
        missing = self._backlog.find_missing(page)
        # Looked up again: what was just settled is gone from the transport's books, and is pending no longer.
        due = attempts.find_due(self._engine, missing) if missing else []
        return self._backlog.feed(due) if due else Fed(0, 0)


def pause_after(spent_s: float, *, wants_more: bool) -> float:
    """Return the seconds to pause after a pass that took so long; ``wants_more``: there is more to put back at once."""
    return 0.0 if wants_more else max(PAUSE_S, min(LONGEST_PAUSE_S, REST * spent_s))


class RelayThread:
    """Runs the relay beside a worker while it is its turn, and in its pauses an auditor, if there is one.

    Use it as a context manager.
    """

    def __init__(
        self,
        backlog: Backlog,
        engine: Engine,
        cache: WalletCache | None = None,
        auditor: Auditor | None = None,
        feed: Feed | None = None,
    ) -> None:
        self._relay = Relay(backlog, engine, cache, feed)
        self._faults = (*backlog.faults, Unavailable)
        self._auditor = auditor
        self._turn = Turn(engine, TURN, ttl_s=TURN_S)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = background.start("relay", self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(TURN_S)

    def _run(self) -> None:
        is_mine = True  # who was interrupted may have been in the middle of it
        while not self._stop.is_set():
            pause_s, was_mine, is_mine = PAUSE_S, is_mine, False
            try:
                if is_mine := self._turn.is_mine():
                    began = time.monotonic()
                    put_back = self._relay.run_once()
                    wants_more = put_back > 0 and not self._relay.is_full
                    looked_s = time.monotonic() - began - self._relay.told_s
                    pause_s = pause_after(looked_s, wants_more=wants_more)
                    if not wants_more and self._auditor is not None:
                        self._auditor.run_once()
            except Exception as error:
                metrics.relay_passes["fault"].inc()
                if not isinstance(error, self._faults):
                    raise
                _log.warning("pass broken off", cause=first_line(error))
            if was_mine and not is_mine:
                metrics.leave_to_others()
            self._stop.wait(pause_s)
        metrics.leave_to_others()
        with suppress(Unavailable):
            self._turn.give_back()
