"""Settling batches of transfers, with faults told apart.

Whose fault a fault is, no error can tell. So whenever a posting has failed, it is rehearsed with made-up transfers
(models/ledger/rehearsal.py). What the database does for these it has refused to the batch alone: then the fault is
narrowed down until one transfer stands alone with it, its neighbours are posted, and it alone spends an attempt. What
the database does for nobody is its own fault: everything is handed back, and nobody spends an attempt, however long
that lasts.

For an innocent to spend an attempt all the same, the database must have been unwell for the whole of its try, and well
again within the moment after it that a rehearsal takes; and once more some tries before, when the batch failed first.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.retries import RetryPolicy
from models.cache.wallet_cache import Evictor, NobodyCaches
from models.database.engine import transaction
from models.database.faults import first_line, is_connection_lost, is_passing, sqlstate
from models.database.session import Session
from models.errors import TransferNotFound, Unavailable
from models.ledger import attempts
from models.ledger.attempts import Seen, Spent
from models.ledger.posting import Outcome, Posting, post, post_bulk
from models.ledger.rehearsal import Fault, judge
from models.ledger.transfer import Kind, Status
from models.snowflake.layout import instant_ms_of
from observe import logs, metrics

LOCK_NOT_AVAILABLE = "55P03"
# A fault of a kind that usually passes is a transfer's own when that alone has met with it so many times in a row.
PASSING_TRIES = 3
# A transfer under which the whole server has gone down this many times is posted alone, after all others; and if it
# goes down as many times more, that was an attempt.
MOST_CRASHES = 3
# Transfers of which that is remembered: more than are in a few batches.
MOST_REMEMBERED = 10_000

_WALLET_LOCKED = "a wallet stayed locked for too long"
_CRASHED = "the database broke down each time it was tried"
_WORDS = {
    LOCK_NOT_AVAILABLE: "something that it needs stayed locked for too long",
    "57014": "the database took too long",
}

_log = structlog.get_logger("jobs")


class TransferFailedError(Exception):
    """The transfer is a dead letter."""

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation


@dataclass(slots=True)
class Settled:
    """What became of a batch: every id is in one of the first three, planned for later, or was never a transfer.

    ``outcomes``: final now. ``spent``: an attempt failed. ``undone``: handed back, through no fault of their own;
    ``fault`` says why. ``dead``: the generations of those found to have failed before. ``set_apart``: those of the
    undone of which nothing can be written down. ``unknown``: no transfers. ``early``: planned for later, and for when;
    to be let go of, for the relay brings them then. ``bulks``: those that are of an atomic bulk, by that.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    spent: dict[int, Spent] = field(default_factory=dict)
    undone: list[int] = field(default_factory=list)
    dead: dict[int, int] = field(default_factory=dict)
    traces: dict[int, str] = field(default_factory=dict)
    fault: str | None = None
    set_apart: set[int] = field(default_factory=set)
    unknown: list[int] = field(default_factory=list)
    bulks: dict[int, list[int]] = field(default_factory=dict)
    early: dict[int, datetime] = field(default_factory=dict)


class _DatabaseAwayError(Exception):
    """A fault of the whole database: stop here."""


class Settler:
    """Settles batches on one database."""

    def __init__(
        self,
        engine: Engine,
        policy: RetryPolicy,
        cache: Evictor | None = None,
        *,
        renew: Callable[[], object] = lambda: None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            engine: of the database.
            policy: of retries.
            cache: what others read these wallets through; None: nothing caches them.
            renew: called between the steps of a batch that takes long.
        """
        self._engine = engine
        self._cache = cache or NobodyCaches()
        self._policy = policy
        self.renew = renew
        # How often the server went down under transfers that are not settled yet, the last ones last. Those of which
        # nothing can be written down are here, too, as if it had.
        self._crashes: dict[int, int] = {}

    def settle(self, transfer_ids: Sequence[int]) -> Settled:
        """Post what can be posted. Raises nothing that a database can cause."""
        settled = Settled()
        suspects = {each for each in transfer_ids if self._crashes.get(each, 0) >= MOST_CRASHES}
        try:
            if others := [each for each in transfer_ids if each not in suspects]:
                self._settle(others, settled, seen=None)
            for each in sorted(suspects, key=self._crashes.__getitem__):
                self._settle_suspect(each, settled)
            for bulk_id, ids in settled.bulks.items():
                self._settle_bulk(bulk_id, ids, settled)
        except _DatabaseAwayError as away:
            settled.fault = str(away)
        if settled.bulks:
            # Of the others of these whoever has them in hand is told the same.
            settled.outcomes = {each: settled.outcomes[each] for each in transfer_ids if each in settled.outcomes}
            settled.spent = {each: settled.spent[each] for each in transfer_ids if each in settled.spent}
        settled.undone = [each for each in transfer_ids if each not in settled.outcomes and each not in settled.spent]
        if settled.fault is None:
            self._look_again(settled)
        return settled

    def reopen(self, generations: dict[int, int]) -> None:
        """Bring back dead letters whose jobs somebody put on the queue again.

        Raises:
            Unavailable: the database is away.
        """
        with transaction(self._engine) as connection:
            reopened = attempts.reopen(connection, generations)
        for due in reopened:
            _log.warning("dead letter requeued", job_id=str(due.id), trace_id=logs.trace_id_of(due.trace), by="rq")

    def _settle(self, ids: Sequence[int], settled: Settled, seen: dict[int, Seen] | None) -> None:
        """Post a batch, or narrow down what is wrong with it: the whole, then its parts, then each alone.

        An attempt is spent only on a try that came after ``seen`` was read: whoever was held up in an earlier one
        may have been overtaken, and would count twice.
        """
        if (fault := self._try(ids, settled)) is None:
            return
        is_first_try, seen = seen is None, self._seen(ids) if seen is None else seen
        if fault.code == LOCK_NOT_AVAILABLE:
            self._settle_around_locks(ids, settled, seen)
        elif len(ids) == 1 and is_first_try:
            self._settle(ids, settled, seen)
        elif len(ids) == 1:
            self._blame(ids[0], settled, seen, fault)
        else:
            size = math.ceil(len(ids) / math.ceil(math.sqrt(len(ids))))
            for first in range(0, len(ids), size):
                self.renew()
                self._settle(ids[first : first + size], settled, seen)

    def _settle_around_locks(self, ids: Sequence[int], settled: Settled, seen: dict[int, Seen]) -> None:
        """Post those that need not wait; wait once more for the others; those still locked out spend an attempt.

        However many are locked out, they wait together, so a wallet that somebody holds costs a batch a few lock
        timeouts and not one for each transfer.
        """
        blocked = self._post_unlocked(ids, settled, seen)
        if not blocked:
            return
        self.renew()
        if (fault := self._try(blocked, settled)) is None:
            return
        self.renew()
        if fault.code != LOCK_NOT_AVAILABLE:
            self._settle_each(blocked, settled, seen)
        elif blocked := self._post_unlocked(blocked, settled, seen):
            self._spend(blocked, settled, seen, _WALLET_LOCKED, fault)

    def _post_unlocked(self, ids: Sequence[int], settled: Settled, seen: dict[int, Seen]) -> list[int]:
        """Post what can be locked at once, and return what cannot."""
        if self._try(ids, settled, wait_for_locks=False) is not None:
            self._settle_each(ids, settled, seen, wait_for_locks=False)
        apart = {each for members in settled.bulks.values() for each in members}
        done = settled.outcomes.keys() | settled.spent.keys() | apart
        return [each for each in ids if each in seen and each not in done]

    def _settle_each(
        self, ids: Sequence[int], settled: Settled, seen: dict[int, Seen], *, wait_for_locks: bool = True
    ) -> None:
        for transfer_id in ids:
            self.renew()
            if (fault := self._try([transfer_id], settled, wait_for_locks=wait_for_locks)) is not None:
                self._blame(transfer_id, settled, seen, fault, wait_for_locks=wait_for_locks)

    def _settle_bulk(self, bulk_id: int, ids: Sequence[int], settled: Settled) -> None:
        """Settle an atomic bulk as a whole; what it fails through is the fault of all of it."""
        tries = 0
        while True:
            self.renew()
            seen = self._seen_of(lambda: attempts.find_seen_of_bulk(self._engine, bulk_id)) or {}
            fault = self._run(ids, settled, lambda session: post_bulk(session, bulk_id, evict=self._cache.evict))
            if fault is None:
                return
            tries += 1
            most = PASSING_TRIES if is_passing(fault.error) and fault.code != LOCK_NOT_AVAILABLE else 2
            if tries >= most:
                break
        words = _WALLET_LOCKED if fault.code == LOCK_NOT_AVAILABLE else _words_for(fault)
        self._spend(list(seen), settled, seen, words, fault)

    def _settle_suspect(self, transfer_id: int, settled: Settled) -> None:
        """Settle one that may be what takes the server down: alone, once the server is seen to be up."""
        self.renew()
        seen = self._seen([transfer_id])
        if self._crashes[transfer_id] < 2 * MOST_CRASHES:
            self._settle([transfer_id], settled, seen)
        else:
            self._crashes[transfer_id] -= 1  # it is tried again before it spends another
            self._spend([transfer_id], settled, seen, _CRASHED)

    def _blame(
        self, transfer_id: int, settled: Settled, seen: dict[int, Seen], fault: Fault, *, wait_for_locks: bool = True
    ) -> None:
        """Have a transfer spend an attempt that has failed alone; but first see whether a fault that may pass does."""
        for _ in range(PASSING_TRIES - 1):
            if is_passing(fault.error):
                self.renew()
                if (again := self._try([transfer_id], settled, wait_for_locks=wait_for_locks)) is None:
                    return
                fault = again
        if transfer_id in seen:
            self._spend([transfer_id], settled, seen, _words_for(fault), fault)
        else:
            self._set_apart(transfer_id, settled, fault.error)

    def _try(self, ids: Sequence[int], settled: Settled, *, wait_for_locks: bool = True) -> Fault | None:
        """Post in one transaction; return what is wrong with one of the transfers. Raises as :meth:`_run`."""
        evict = self._cache.evict
        return self._run(ids, settled, lambda session: post(session, ids, wait_for_locks=wait_for_locks, evict=evict))

    def _run(self, ids: Sequence[int], settled: Settled, work: Callable[[Session], Posting]) -> Fault | None:
        """Post, and take over what it came to.

        Raises:
            _DatabaseAwayError: something is wrong, and with none of them.
        """
        began, is_under_way = time.monotonic(), False
        try:
            with Session(self._engine) as session:
                is_under_way = True
                posting = work(session)
        except PoolTimeoutError as error:
            raise _DatabaseAwayError(first_line(error)) from error
        except DBAPIError as error:
            if (fault := judge(self._engine, error, took_s=time.monotonic() - began)) is not None:
                return fault
            if is_under_way and is_connection_lost(error):
                self._remember_crash(ids)
            raise _DatabaseAwayError(first_line(error)) from error
        self._cache.evict_again(posting.eviction)
        self._take_over(posting, settled)
        return None

    def _take_over(self, posting: Posting, settled: Settled) -> None:
        final = {each: outcome for each, outcome in posting.outcomes.items() if outcome.status.is_final}
        settled.outcomes |= final
        settled.traces |= posting.traces
        for bulk_id, ids in posting.apart.items():
            settled.bulks[bulk_id] = [*dict.fromkeys([*settled.bulks.get(bulk_id, ()), *ids])]
        for each in self._crashes.keys() & final:
            del self._crashes[each]
        _count_decided(posting)

    def _remember_crash(self, ids: Sequence[int]) -> None:
        for each in ids:
            self._crashes[each] = self._crashes.pop(each, 0) + 1
        for each in list(self._crashes)[:-MOST_REMEMBERED]:
            del self._crashes[each]

    def _spend(
        self, ids: Sequence[int], settled: Settled, seen: dict[int, Seen], words: str, fault: Fault | None = None
    ) -> None:
        """Spend an attempt of each; the last one makes a dead letter.

        Raises:
            _DatabaseAwayError: the database is slow, or cannot write that down.
        """
        if fault is not None and not fault.is_clear:
            raise _DatabaseAwayError(first_line(fault.error))
        mine = {each: seen[each] for each in ids if each in seen}
        delays_s = {each: self._policy.delay_after(counters.attempts + 1) for each, counters in mine.items()}
        try:
            with self._engine.begin() as connection:
                spent = attempts.spend(connection, mine, delays_s, error=words)
        except PoolTimeoutError as failure:
            raise _DatabaseAwayError(first_line(failure)) from failure
        except DBAPIError as failure:
            self._raise_if_away(failure)
            if len(ids) == 1:
                self._set_apart(ids[0], settled, failure)
                return
            if (sqlstate(failure) or "") in _WORDS:  # somebody holds the transfers themselves: each would wait as long
                raise _DatabaseAwayError(first_line(failure)) from failure
            for each in ids:
                self._spend([each], settled, seen, words, fault)
            return
        settled.spent |= spent
        metrics.attempts_failed.inc(len(spent))
        metrics.transfers[Kind.TRANSFER, Status.FAILED].inc(sum(not each.next_attempt_at for each in spent.values()))
        for transfer_id, after in spent.items():
            _log.warning(
                "attempt failed",
                job_id=str(transfer_id),
                trace_id=logs.trace_id_of(after.trace),
                attempts=after.attempts,
                cause=words if fault is None else first_line(fault.error),
                next_attempt_at=after.next_attempt_at,
                is_dead=after.next_attempt_at is None,
            )

    def _set_apart(self, transfer_id: int, settled: Settled, failure: BaseException) -> None:
        """Hand one back of which nothing can be written down; from now on it is tried alone, after all others."""
        self._crashes[transfer_id] = max(self._crashes.get(transfer_id, 0), MOST_CRASHES)
        settled.fault = first_line(failure)
        settled.set_apart.add(transfer_id)
        _log.warning("attempt not written down", job_id=str(transfer_id), cause=settled.fault)

    def _seen(self, ids: Sequence[int]) -> dict[int, Seen]:
        """Return the counters of those that are pending, without one that cannot be read."""
        if (seen := self._seen_of(lambda: attempts.find_seen(self._engine, ids))) is not None:
            return seen
        return {} if len(ids) == 1 else {key: value for each in ids for key, value in self._seen([each]).items()}

    def _seen_of(self, look: Callable[[], dict[int, Seen]]) -> dict[int, Seen] | None:
        try:
            return look()
        except Unavailable as error:
            self._raise_if_away(error.__cause__ or error)
        return None

    def _raise_if_away(self, failure: BaseException) -> None:
        if not isinstance(failure, DBAPIError) or judge(self._engine, failure, took_s=0.0) is None:
            raise _DatabaseAwayError(first_line(failure)) from failure

    def _look_again(self, settled: Settled) -> None:
        """Tell the undone from those that somebody else has settled, that are planned for later, and that nobody knows.

        Of those that are dead letters, learn in which generation they failed.
        """
        try:
            if settled.undone:
                known = attempts.find_outcomes(self._engine, settled.undone)
                settled.unknown = [each for each in settled.undone if each not in known]
                settled.outcomes |= {each: outcome for each, outcome in known.items() if outcome.status.is_final}
                left = [each for each in known if each not in settled.outcomes]
                settled.early = attempts.find_early(self._engine, left) if left else {}
                settled.undone = [each for each in left if each not in settled.early]
            failed = [each for each, outcome in settled.outcomes.items() if outcome.status is Status.FAILED]
            if failed:
                settled.dead = attempts.find_dead_generations(self._engine, failed)
        except Unavailable as error:
            settled.fault = str(error)


def _words_for(fault: Fault) -> str:
    return _WORDS.get(fault.code or "", f"the database refused it (SQLSTATE {fault.code})")


def _count_decided(posting: Posting) -> None:
    """Count what a commit has just made true, and not what was true before. Only transfers are jobs."""
    now_s = time.time()
    posted = [each for each in posting.decided if posting.outcomes[each].status is Status.POSTED]
    metrics.transfers[Kind.TRANSFER, Status.POSTED].inc(len(posted))
    metrics.transfers[Kind.TRANSFER, Status.REJECTED].inc(len(posting.decided) - len(posted))
    # By a clock that may be another machine's, and ahead.
    metrics.observe_all(
        metrics.transfer_settle_seconds, [max(0.0, now_s - _began_at_s(each, posting.planned)) for each in posted]
    )


def _began_at_s(transfer_id: int, planned: Mapping[int, datetime]) -> float:
    """Return since when a transfer is to be settled: as planned, or since it was accepted, which its id tells."""
    return max(instant_ms_of(transfer_id) / 1000, planned[transfer_id].timestamp() if transfer_id in planned else 0.0)


def settle_alone(settler: Settler, transfer_id: int, *, generation: int | None) -> Status:
    """Settle one transfer, reopening it first if it was booked dead in this generation."""
    if generation is not None:
        settler.reopen({transfer_id: generation})
    settled = settler.settle([transfer_id])
    if settled.fault is not None:
        raise Unavailable
    if (spent := settled.spent.get(transfer_id)) is not None:
        status = Status.PENDING if spent.next_attempt_at else Status.FAILED
    elif (outcome := settled.outcomes.get(transfer_id)) is not None:
        status = outcome.status
    elif transfer_id in settled.undone or transfer_id in settled.early:
        status = Status.PENDING
    else:
        raise TransferNotFound(transfer_id)
    if status is Status.FAILED:
        generation = spent.generation if spent else settled.dead.get(transfer_id, 0)
        raise TransferFailedError(generation)
    trace_id = logs.trace_id_of(settled.traces.get(transfer_id))
    _log.info("transfer settled", job_id=str(transfer_id), trace_id=trace_id, status=status)
    return status
