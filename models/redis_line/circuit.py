"""A circuit breaker: who finds Redis silent pays its timeout once, and the next callers do not."""

import threading
import time
from collections.abc import Callable

# How long after a fault nobody asks again. Short: the relay makes up for what was not asked meanwhile.
OPEN_S = 1.0


class Circuit:
    """Closed: calls go through. A fault opens it for a while; then one call tries, and the others wait for its news."""

    def __init__(self, *, open_s: float = OPEN_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_at: float | None = None

    def allows(self) -> bool:
        """Whether to try now. Whoever is allowed while it is open is its probe, until the next pause is over."""
        with self._lock:
            if self._closed_at is None:
                return True
            if self._clock() < self._closed_at:
                return False
            self._closed_at = self._clock() + self._open_s
            return True

    def succeeded(self) -> None:
        """Tell that a call went through."""
        self._closed_at = None

    def failed(self) -> None:
        """Tell that a call did not."""
        with self._lock:
            self._closed_at = self._clock() + self._open_s
