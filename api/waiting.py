"""Long polling: a caller may wait for a job to end, within bounds that keep the API answering everyone else."""

import math
import threading
import time
from collections.abc import Callable, Collection

from models.ledger.transfer import Transfer
from observe import background, metrics

MAX_WAIT_S = 20.0
# Of a process, at once. Whoever comes beyond them is answered at once.
MOST_WAITERS = 1_000
# A posting takes milliseconds, so the first looks are close together; whoever still waits after them is waiting for
# a retry or a backlog.
FIRST_PAUSE_S = 0.004
LONGEST_PAUSE_S = 0.1

# Of some transfers, which have ended.
FindEnded = Callable[[Collection[int]], Collection[int]]


class _Waiter:
    """One who waits: to be looked for again at that instant, and so long after that."""

    __slots__ = ("due_at", "error", "is_called", "pause_s", "transfer_id")

    def __init__(self, transfer_id: int) -> None:
        self.transfer_id = transfer_id
        self.pause_s = FIRST_PAUSE_S
        self.due_at = time.monotonic() + self.pause_s
        self.is_called = threading.Event()
        self.error: Exception | None = None

    def wait_on(self, now: float) -> None:
        """Set the next look. Those of all who have waited for long fall together, and are one."""
        self.pause_s *= 1.5
        if self.pause_s < LONGEST_PAUSE_S:
            self.due_at = now + self.pause_s
        else:
            self.due_at = (now // LONGEST_PAUSE_S + 1) * LONGEST_PAUSE_S


class WaitingRoom:
    """Where requests wait for their transfers, and one thread looks for all of them together."""

    def __init__(self, find_ended: FindEnded, *, most: int = MOST_WAITERS) -> None:
        """``find_ended`` may raise anything: who waits for what it was asked about is then told."""
        self._find_ended = find_ended
        self._most = most
        self._changed = threading.Condition()
        self._waiters: set[_Waiter] = set()
        self._is_watched = False
        self._closes_at = math.inf

    @property
    def waiters(self) -> int:
        """How many wait."""
        return len(self._waiters)

    def close(self, *, within_s: float) -> None:
        """End every wait within these seconds, those that have yet to begin included: this process is to end."""
        with self._changed:
            self._closes_at = time.monotonic() + within_s
            self._changed.notify()

    def wait_until_final(self, look: Callable[[], Transfer], wait_s: float) -> Transfer:
        """Wait until the transfer's status is final, the time is over or the room closes; return what was seen last.

        Args:
            look: reads the transfer; what it raises is passed on, and so is what the looks for all raise.
            wait_s: seconds, at most :data:`MAX_WAIT_S`; 0 looks once.
        """
        deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
        transfer = look()
        while not transfer.status.is_final and time.monotonic() < min(deadline, self._closes_at):
            waiter = self._enter(transfer.id)
            if waiter is None:
                metrics.shed["waiting"].inc()
                break
            try:
                waiter.is_called.wait(deadline - time.monotonic())
            finally:
                self._waiters.discard(waiter)
            if waiter.error is not None:
                raise waiter.error
            if time.monotonic() < self._closes_at:  # or all who wait would look at once
                transfer = look()
        return transfer

    def _enter(self, transfer_id: int) -> _Waiter | None:
        """Return whoever waits now; None: there is no room."""
        with self._changed:
            if len(self._waiters) >= self._most:
                return None
            waiter = _Waiter(transfer_id)
            self._waiters.add(waiter)
            if not self._is_watched:
                self._is_watched = background.start("waiting_room", self._watch) is not None
            self._changed.notify()
        return waiter

    def _watch(self) -> None:
        """Look for as long as somebody waits."""
        while True:
            with self._changed:
                waiters = list(self._waiters)
                if not waiters:
                    self._is_watched = False
                    return
                now = time.monotonic()
                next_at = min(self._closes_at, *(waiter.due_at for waiter in waiters))
                if next_at > now:
                    self._changed.wait(next_at - now)
                    continue
            if now >= self._closes_at:
                self._call(waiters)
            else:
                self._look([waiter for waiter in waiters if waiter.due_at <= now])

    def _look(self, due: list[_Waiter]) -> None:
        """Look once for all of these."""
        try:
            ended = self._find_ended({waiter.transfer_id for waiter in due})
        except Exception as error:  # noqa: BLE001 - it is theirs
            for waiter in due:
                waiter.error = error
            self._call(due)
            return
        now = time.monotonic()
        for waiter in due:
            waiter.wait_on(now)
        self._call([waiter for waiter in due if waiter.transfer_id in ended])

    def _call(self, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            self._waiters.discard(waiter)
            waiter.is_called.set()
