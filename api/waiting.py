"""Long polling: a caller may wait for a job to end, within bounds that keep the API answering everyone else."""

import math
import threading
import time
from collections.abc import Callable

from models.ledger.transfer import Transfer
from observe import metrics

MAX_WAIT_S = 20.0
# A posting takes milliseconds, so the first looks are close together; whoever still waits after them is waiting for
# a retry or a backlog, and one look in 100 ms per seat is a load that PostgreSQL does not notice.
_FIRST_PAUSE_S = 0.004
_LONGEST_PAUSE_S = 0.1


class WaitingRoom:
    """A bounded number of seats, one for each request that waits. Who finds none is answered at once."""

    def __init__(self, *, seats: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._seats = threading.BoundedSemaphore(seats)
        self._sleep = sleep
        self._closes_at = math.inf

    def close(self, *, within_s: float) -> None:
        """End every wait within these seconds, those that have yet to begin included: this process is to end."""
        self._closes_at = time.monotonic() + within_s

    def wait_until_final(self, look: Callable[[], Transfer], wait_s: float) -> Transfer:
        """Look until the transfer's status is final, the time is over or the room closes; return what was seen last.

        Args:
            look: reads the transfer; what it raises is passed on.
            wait_s: seconds, at most :data:`MAX_WAIT_S`; 0 looks once.
        """
        deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
        transfer = look()
        if transfer.status.is_final or wait_s <= 0:
            return transfer
        if not self._seats.acquire(blocking=False):
            metrics.shed["waiting"].inc()
            return transfer
        try:
            pause_s = _FIRST_PAUSE_S
            while not transfer.status.is_final and (left_s := min(deadline, self._closes_at) - time.monotonic()) > 0:
                self._sleep(min(pause_s, left_s))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
                transfer = look()
        finally:
            self._seats.release()
        return transfer
