"""Ids of 63 bits that sort by time: 41 bits of milliseconds since 2026, 10 of node, 12 of sequence.

Two ids are never equal because every *instant of a node* has one owner. A lease is a reservation of instants: taking
or renewing it first commits to PostgreSQL how far its holder may go (``reserved_until_ms``), the holder issues nothing
beyond that, and whoever has the node next starts above it. That holds whatever pauses, forks, partitions and clocks
did to either of them, so uniqueness hangs on no timing; the lease's time only decides when a node may be taken over.
What it does rest on is that PostgreSQL keeps what it has committed, and that no machine is resumed twice from one
snapshot of its memory.

A node's row must therefore never be deleted, nor its ``reserved_until_ms`` lowered by anyone but its holder.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from models.snowflake.layout import EPOCH_MS, SEQUENCE_BITS, SEQUENCE_MASK, encode
from models.snowflake.leases import NodeLease, Reservation, SnowflakeError

if TYPE_CHECKING:
    from uuid import UUID

# The whole wait of one call for a clock that is behind. NTP steps of more than that are rare and deserve an error.
MAX_WAIT_MS = 1_000


class ClockMovedBackwards(SnowflakeError):
    """The clock is behind the last id issued by more than is worth waiting for."""

    def __init__(self, behind_ms: int) -> None:
        super().__init__()
        self.behind_ms = behind_ms


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Snowflake:
    """Issues ids, each greater than the one before it. Thread-safe, and safe to use on both sides of a fork."""

    def __init__(
        self,
        lease: NodeLease,
        *,
        clock_ms: Callable[[], int] = _wall_ms,
        wait_s: Callable[[float], object] = time.sleep,
    ) -> None:
        """Connect to nothing yet.

        Args:
            lease: the node id, this generator's alone.
            clock_ms: the wall clock, in Unix milliseconds.
            wait_s: waits for a number of seconds.
        """
        self.lease = lease
        self._clock_ms = clock_ms
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._holder: UUID | None = None
        # The last id's instant and sequence in one number: its successor is one more, and 4096 in one millisecond
        # run over into the next.
        self._tick = (EPOCH_MS << SEQUENCE_BITS) - 1
        _generators.add(self)

    def next_id(self) -> int:
        """Return an id that no process has ever returned before, greater than all that this one has returned.

        Waits at most :data:`MAX_WAIT_MS` for the clock to reach the next free instant.

        Raises:
            ClockMovedBackwards: the clock is further behind than that.
            ClockOutOfRange: the clock is past 2095.
            NoFreeNode: a node id is needed and all are leased.
            LeaseUnavailable: a node id is needed and the database does not answer.
        """
        waited_ms = 0
        with self._lock:
            while True:
                now_ms = self._clock_ms()
                reservation = self.lease.reserve(now_ms)
                if reservation.holder is not self._holder:
                    self._start(reservation)
                tick = now_ms << SEQUENCE_BITS
                if tick <= self._tick:
                    tick = self._tick + 1
                instant_ms = tick >> SEQUENCE_BITS
                if instant_ms <= now_ms:
                    self._tick = tick
                    return encode(instant_ms, reservation.node, tick & SEQUENCE_MASK)
                waited_ms += instant_ms - now_ms
                if waited_ms > MAX_WAIT_MS:
                    raise ClockMovedBackwards(instant_ms - now_ms)
                self._wait_s((instant_ms - now_ms) / 1000)

    def release(self) -> None:
        """Give the node id back, for a graceful end; the next :meth:`next_id` would take another. Never raises."""
        with self._lock:
            self.lease.release(self._tick >> SEQUENCE_BITS)

    def start_afresh(self) -> None:
        """Leave lock and lease to the parent: called in every process just forked, before anything else runs."""
        self._lock = threading.Lock()
        self.lease.forget()

    def _start(self, reservation: Reservation) -> None:
        """Go on with a new node: above its floor, and in a later millisecond, as its number may be a lower one."""
        last_ms = max(self._tick >> SEQUENCE_BITS, reservation.floor_ms)
        self._tick = last_ms << SEQUENCE_BITS | SEQUENCE_MASK
        self._holder = reservation.holder


_generators: weakref.WeakSet[Snowflake] = weakref.WeakSet()


def _start_all_afresh() -> None:
    for generator in _generators:
        generator.start_afresh()


os.register_at_fork(after_in_child=_start_all_afresh)
