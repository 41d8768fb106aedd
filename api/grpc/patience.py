"""Callers who keep a thread waiting: not for ever, and not for long when others may find none.

A message of a stream goes out when its reader allows it, and a thread waits for that. A reader who never does would
hold the thread for as long as his connection lasts, and some like him all that there are. So his call is cancelled.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from observe import background

# When so many keep threads waiting that others may find none.
IN_A_CROWD_S = 0.25
_TICK_S = 0.1


class Patience:
    """How long callers may keep threads waiting."""

    def __init__(self, longest_s: float, *, crowd: int) -> None:
        """Expect nothing yet.

        Args:
            longest_s: for whatever is expected of a caller.
            crowd: with more than so many at a time it is :data:`IN_A_CROWD_S`.
        """
        self._longest_s = longest_s
        self._crowd = crowd
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._expected: dict[int, tuple[float, grpc.ServicerContext]] = {}
        self._is_watched = False

    @contextmanager
    def expect(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Expect something of a caller, while this lasts."""
        number = next(self._numbers)
        with self._lock:
            self._expected[number] = time.monotonic(), context
            starts, self._is_watched = not self._is_watched, True
        if starts and background.start("grpc_watches", self._watch) is None:
            self._is_watched = False
        try:
            yield
        finally:
            with self._lock:
                del self._expected[number]

    def cancel(self, since_s: float) -> None:
        """Cancel the calls of those of whom something has been expected for so long."""
        before = time.monotonic() - since_s
        with self._lock:
            late = [context for since, context in self._expected.values() if since <= before]
        for context in late:
            context.cancel()

    def _watch(self) -> None:
        """Cancel who takes too long, as long as anything is expected."""
        while True:
            time.sleep(_TICK_S)
            with self._lock:
                if not self._expected:
                    self._is_watched = False
                    return
            self.cancel(self._longest_s if len(self._expected) <= self._crowd else IN_A_CROWD_S)
