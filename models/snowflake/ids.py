"""Ids of 63 bits that sort by time: 41 bits of milliseconds since 2026, 10 of node, 12 of sequence.

Two ids are never equal because every *instant of a node* has one owner. A lease is a reservation of instants: taking
or renewing it first commits to PostgreSQL how far its holder may go (``reserved_until_ms``), the holder issues nothing
beyond that, and whoever has the node next starts above it. That holds whatever pauses, forks, partitions and clocks
did to either of them, so uniqueness hangs on no timing; the lease's time only decides when a node may be taken over.
What it does rest on is that PostgreSQL keeps what it has committed, and that no machine is resumed twice from one
snapshot of its memory.

The order of ids is the clock's, and no better than it: a clock that was ahead for a while leaves ids of the future
behind. When it is right again, waiting for it could take hours. So the process leaves its node to the future, and goes
on with another one, below its own last ids (docs/decisions/0033).

A node's row must therefore never be deleted, nor its ``reserved_until_ms`` lowered by anyone but its holder.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

import structlog

from models.snowflake.layout import EPOCH_MS, SEQUENCE_BITS, SEQUENCE_MASK, encode
from models.snowflake.leases import NodeLease, Reservation, SnowflakeError, boot_time_s
from observe import metrics

# The whole wait of one call for a clock that is behind. NTP steps of more than that are rare.
MAX_WAIT_MS = 1_000
# A process gives up at most so many nodes in so many seconds for the clock's sake. Each is of no use until the clock
# gets to where it was left, and there are so many only: a clock that leaps to and fro is not to use them up.
MOST_MOVES = 10
MOVES_WITHIN_S = 600.0

_log = structlog.get_logger("snowflake")
_BEFORE_ALL = (EPOCH_MS << SEQUENCE_BITS) - 1


class ClockMovedBackwards(SnowflakeError):
    """The clock is behind the last id issued by more than is worth waiting for, and no other node would help."""

    def __init__(self, behind_ms: int) -> None:
        super().__init__()
        self.behind_ms = behind_ms


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Snowflake:
    """Issues ids. Thread-safe, and safe to use on both sides of a fork.

    Each is greater than the one before it, unless the clock has gone back by more than :data:`MAX_WAIT_MS` in between.
    """

    def __init__(
        self,
        lease: NodeLease,
        *,
        clock_ms: Callable[[], int] = _wall_ms,
        wait_s: Callable[[float], object] = time.sleep,
        uptime_s: Callable[[], float] = boot_time_s,
    ) -> None:
        """Connect to nothing yet.

        Args:
            lease: the node id, this generator's alone.
            clock_ms: the wall clock, in Unix milliseconds.
            wait_s: waits for a number of seconds.
            uptime_s: a clock in seconds that is never set.
        """
        self.lease = lease
        self._clock_ms = clock_ms
        self._wait_s = wait_s
        self._uptime_s = uptime_s
        self._lock = threading.Lock()
        self._reservation: Reservation | None = None
        # The last id's instant and sequence in one number: its successor is one more, and 4096 in one millisecond
        # run over into the next.
        self._tick = _BEFORE_ALL
        # The last instant that the node was not this process's for.
        self._floor_ms = 0
        # When nodes were given up for the clock's sake, by the uptime.
        self._moves_s: deque[float] = deque(maxlen=MOST_MOVES)
        self._has_failed = False
        _generators.add(self)

    def next_id(self) -> int:
        """Return an id that no process has ever returned before.

        Waits at most :data:`MAX_WAIT_MS` for the clock to reach the next free instant.

        Raises:
            ClockMovedBackwards: the clock is further behind than that, on whatever node.
            ClockOutOfRange: the clock is past 2095.
            NoFreeNode: a node id is needed and all are leased.
            LeaseUnavailable: a node id is needed and the database does not answer.
        """
        with self._lock:
            try:
                issued = self._issue()
            except SnowflakeError:
                self._has_failed = True
                raise
            self._has_failed = False
            return issued

    def is_able(self) -> bool:
        """Whether ids can be had, for whoever decides on that whether anybody is to ask for them here.

        Nothing is done to find out, unless the last one could not be had: then another one is asked for.
        """
        if self._has_failed:
            try:
                self.next_id()
            except SnowflakeError:
                return False
        return True

    def release(self) -> None:
        """Give the node id back, for a graceful end; the next :meth:`next_id` would take another. Never raises."""
        with self._lock:
            self.lease.release(self._tick >> SEQUENCE_BITS)

    def start_afresh(self) -> None:
        """Leave lock and lease to the parent: called in every process just forked, before anything else runs."""
        self._lock = threading.Lock()
        self.lease.forget()

    def _issue(self) -> int:
        waited_ms = 0
        while True:
            now_ms = self._clock_ms()
            reservation = self.lease.reserve(now_ms)
            if self._reservation is None or reservation.holder is not self._reservation.holder:
                self._start(reservation, now_ms)
            tick = now_ms << SEQUENCE_BITS
            if tick <= self._tick:
                tick = self._tick + 1
            instant_ms = tick >> SEQUENCE_BITS
            if instant_ms <= now_ms:
                self._tick = tick
                return encode(instant_ms, reservation.node, tick & SEQUENCE_MASK)
            behind_ms = instant_ms - now_ms
            if behind_ms > MAX_WAIT_MS and self._move(reservation, behind_ms):
                continue
            waited_ms += behind_ms
            if waited_ms > MAX_WAIT_MS:
                raise ClockMovedBackwards(behind_ms)
            self._wait_s(behind_ms / 1000)

    def _start(self, reservation: Reservation, now_ms: int) -> None:
        """Go on with a new node: above its floor, and in a later millisecond, as its number may be a lower one.

        Not above ids of a future that is not to be waited for.
        """
        last_ms = self._tick >> SEQUENCE_BITS
        self._floor_ms = max(reservation.floor_ms, EPOCH_MS - 1)
        last_ms = self._floor_ms if last_ms - now_ms > MAX_WAIT_MS else max(last_ms, self._floor_ms)
        self._tick = last_ms << SEQUENCE_BITS | SEQUENCE_MASK
        self._reservation = reservation

    def _move(self, reservation: Reservation, behind_ms: int) -> bool:
        """Give up a node that was used in the future, and return whether that was done.

        One that was found so, when no other was better, is kept.
        """
        last_ms, now_s = self._tick >> SEQUENCE_BITS, self._uptime_s()
        has_moved_much = len(self._moves_s) == MOST_MOVES and now_s - self._moves_s[0] < MOVES_WITHIN_S
        if last_ms <= self._floor_ms or has_moved_much:
            return False
        self._moves_s.append(now_s)
        metrics.clock_steps.inc()
        _log.error("the clock has gone back", by_ms=behind_ms, left_node=reservation.node)
        self.lease.release(last_ms)
        return True


_generators: weakref.WeakSet[Snowflake] = weakref.WeakSet()


def _start_all_afresh() -> None:
    for generator in _generators:
        generator.start_afresh()


os.register_at_fork(after_in_child=_start_all_afresh)
