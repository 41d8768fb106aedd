"""The relay: what puts pending transfers back on the queue.

PostgreSQL knows what is pending; Redis may have forgotten it, never been told, or believe it in the hands of a worker
that is dead. The relay runs wherever a worker runs, one at a time by a lock in Redis. Losing that lock costs a second
look at the same things, never money: all it does may be done twice.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import redis
import structlog
from redis.exceptions import LockError
from sqlalchemy import Engine

from jobs.auditor import Auditor
from jobs.rq.keys import MAX_LOST, Enqueued, NewJob, RqKeys, transfer_id_of
from jobs.rq.lock import InsistentLock
from models.cache.wallet_cache import WalletCache
from models.database.engine import transaction
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.frontier import Frontier
from models.ledger.transfer import Kind, Status
from observe import background, logs, metrics

LOCK_NAME = "wallet:relay"
# A relay that dies is followed by another after this many seconds.
LOCK_TTL_S = 5.0
# Between two passes; retries are as punctual as this.
PAUSE_S = 0.25
# One that had nothing to do and took long is followed by a pause this many times as long: a tenth of the time, at most,
# is spent on looking, whatever there is to look through. Shorter than the lock, which is prolonged in each pass.
REST = 9.0
LONGEST_PAUSE_S = 2.0
# Bounds of one pass.
PAGE = 1_000
PAGES = 10
MAX_REAPED = 1_000
# "Queued" is checked against the list itself, which is as long as the backlog: the longer, the less often.
LIST_CHECK_S = 1.0
LIST_CHECK_S_PER_JOB = 0.0005
# How often the names of workers that were killed are forgotten.
FORGET_S = 60.0
# Each of these costs a walk along the list inside Redis.
MAX_MISSING_FROM_LIST = 200

_log = structlog.get_logger("relay")


class Relay:
    """Brings back what was lost, a bounded amount a pass."""

    def __init__(
        self,
        connection: redis.Redis,
        engine: Engine,
        cache: WalletCache | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = RqKeys(connection)
        self._engine = engine
        self._cache = cache
        self._clock = clock
        self._frontier = Frontier(engine, clock=clock)
        self._next_list_check = self._next_forgetting = 0.0
        # The page for which there was no room on the queue: the next pass goes on with it, so that the oldest get onto
        # the queue first.
        self._unfed: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether the last pass ended because there was no more room on the queue."""
        return bool(self._unfed)

    def run_once(self) -> int:
        """Look once through expired leases and pending transfers; return how many jobs went back on the queue.

        Raises:
            redis.RedisError: Redis is away.
            Unavailable: PostgreSQL is away.
        """
        put_back = self._reap()
        self._settle_kept_evictions()
        self._forget_workers_if_due()
        listed = self._list_if_due()
        for _ in range(PAGES):
            page = self._unfed or self._frontier.next_page(PAGE)
            restored, refused = self._restore(page, listed)
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

    def _reap(self) -> int:
        """Take back the jobs of workers that died or hang, and remember in PostgreSQL that they were lost.

        Redis names those that have lost many leases; PostgreSQL, which knows in which generation, has the last word.
        """
        reaped = self._keys.reap(limit=MAX_REAPED)
        moved = {int(each): lost for each, lost in reaped.moved.items() if transfer_id_of(each)}
        killers = [int(each) for each in reaped.killers if transfer_id_of(each)]
        if not moved and not killers:
            return len(reaped.moved)
        with transaction(self._engine) as connection:
            leases = attempts.count_lost(connection, moved | dict.fromkeys(killers, MAX_LOST))
            dead = attempts.fail_lost(connection, killers, most=MAX_LOST) if killers else {}
        metrics.transfers[Kind.TRANSFER, Status.FAILED].inc(len(dead))
        for transfer_id, spent in dead.items():
            trace_id = logs.trace_id_of(spent.trace)
            _log.error("transfer kills its workers", job_id=str(transfer_id), trace_id=trace_id)
            self._keys.bury(transfer_id, generation=spent.generation, error="its worker died each time")
        spared = {each: leases[each] for each in killers if each in leases and each not in dead}
        if spared:
            self._keys.spare(spared)
        if settled := [each for each in killers if each not in leases]:
            self._book_settled(settled)
        return len(reaped.moved) + len(spared)

    def _book_settled(self, transfer_ids: Sequence[int]) -> None:
        """Book those that turned out to be final: their last worker posted them, and died before it could."""
        dead = attempts.find_dead_generations(self._engine, transfer_ids)
        self._keys.finish("", [each for each in transfer_ids if each not in dead])
        for transfer_id, generation in dead.items():
            self._keys.bury(transfer_id, generation=generation, error="its worker died each time")

    def _forget_workers_if_due(self) -> None:
        if self._clock() >= self._next_forgetting:
            self._keys.forget_workers()
            self._next_forgetting = self._clock() + FORGET_S

    def _list_if_due(self) -> set[int] | None:
        """Return the ids that stand in the list, None when it is not time to look."""
        if self._clock() < self._next_list_check:
            return None
        listed = self._keys.queued_ids()
        self._next_list_check = self._clock() + LIST_CHECK_S + LIST_CHECK_S_PER_JOB * len(listed)
        return listed

    def _restore(self, page: Sequence[int], listed: set[int] | None) -> Enqueued:
        """Enqueue those of a page of pending transfers that no list, worker or lease has."""
        if not page:
            return Enqueued(0, 0)
        gone, queued = self._keys.examine(page)
        if listed is not None:
            gone += [each for each in queued if each not in listed][:MAX_MISSING_FROM_LIST]
        if not gone:
            return Enqueued(0, 0)
        # Looked up again: what was just finished is gone from Redis's books, and is pending no longer.
        due = attempts.find_due(self._engine, gone)
        return self._keys.feed([NewJob(each.id, each.trace, each.lost_leases) for each in due])


def pause_after(spent_s: float, *, wants_more: bool) -> float:
    """Return the seconds to pause after a pass that took so long; ``wants_more``: there is more to put back at once."""
    return 0.0 if wants_more else max(PAUSE_S, min(LONGEST_PAUSE_S, REST * spent_s))


class RelayThread:
    """Runs the relay beside a worker while it holds the lock, and in its pauses an auditor, if there is one.

    Use it as a context manager.
    """

    def __init__(
        self,
        connection: redis.Redis,
        engine: Engine,
        cache: WalletCache | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        self._relay = Relay(connection, engine, cache)
        self._auditor = auditor
        self._lock = InsistentLock(connection, LOCK_NAME, ttl_s=LOCK_TTL_S)
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
            self._thread.join(LOCK_TTL_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause_s = PAUSE_S
            try:
                if self._holds_lock():
                    began = time.monotonic()
                    put_back = self._relay.run_once()
                    wants_more = put_back > 0 and not self._relay.is_full
                    pause_s = pause_after(time.monotonic() - began, wants_more=wants_more)
                    if not wants_more and self._auditor is not None:
                        self._auditor.run_once()
            except Exception as error:
                metrics.relay_passes["fault"].inc()
                if not isinstance(error, redis.RedisError | Unavailable):
                    raise
                _log.warning("pass broken off", cause=first_line(error))
            self._stop.wait(pause_s)
        with suppress(redis.RedisError, LockError):
            if self._lock.owned():
                self._lock.release()

    def _holds_lock(self) -> bool:
        """Prolong the lock, or take it if it is free."""
        try:
            if self._lock.local.token is not None and self._lock.reacquire():
                return True
        except LockError:
            self._lock.local.token = None
        return bool(self._lock.acquire())
