"""What goes wrong with Kafka over and over is logged now and then, with how often it did."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

# Between two lines about the same.
QUIET_S = 5.0

_log = structlog.get_logger("kafka")


class Complaints:
    """Of one kind. May be called by any thread, in the middle of a callback: raises nothing."""

    def __init__(self, event: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``event``: what the line says has happened."""
        self._event = event
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._next_at = float("-inf")

    def add(self, cause: Any) -> None:
        """Count one, and log it unless there was a line just now."""
        with self._lock:
            self._count += 1
            if self._clock() < self._next_at:
                return
            count, self._count = self._count, 0
            self._next_at = self._clock() + QUIET_S
        _log.warning(self._event, cause=str(cause), times=count)
