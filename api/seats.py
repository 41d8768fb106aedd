"""Seats: what costs a process much it does for a few at a time, and turns away whoever comes beyond them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.calls.problems import RETRY_AFTER_S, ApiError
from observe import metrics


class Seats:
    """A bounded number of them, for one kind of thing."""

    def __init__(self, most: int, where: str, full: str, *, wait_s: float = 0.0) -> None:
        """Make them.

        Args:
            most: how many there are.
            where: what whoever finds none is counted as in :data:`observe.metrics.shed`.
            full: a sentence that tells him so.
            wait_s: for how long he waits for one first.
        """
        self._free = threading.BoundedSemaphore(most)
        self._where = where
        self._full = full
        self._wait_s = wait_s

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one of them as long as this lasts.

        Raises:
            ApiError: ``unavailable``: there is none, and none has become free.
        """
        if not self._free.acquire(timeout=self._wait_s):
            metrics.shed[self._where].inc()
            raise ApiError("unavailable", f"{self._full} Ask again.", {"Retry-After": str(RETRY_AFTER_S)})
        try:
            yield
        finally:
            self._free.release()
