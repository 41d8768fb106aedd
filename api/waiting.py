"""Waiting for jobs, bulks and events, within bounds that keep everyone else answered: long polls and watches."""

import math
import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from observe import background, metrics

MAX_WAIT_S = 20.0
# Of a process, at once. Whoever comes beyond them is answered at once.
MOST_WAITERS = 1_000
# A posting takes milliseconds, so the first looks are close together; whoever still waits after them is waiting for
# a retry or a backlog.
FIRST_PAUSE_S = 0.004
LONGEST_PAUSE_S = 0.1

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Waiter(Generic[K]):
    """One who waits: to be looked for again at that instant, and so long after that."""

    __slots__ = ("due_at", "error", "is_called", "key", "pause_s")

    def __init__(self, key: K, is_called: threading.Event, pause_s: float) -> None:
        self.key = key
        self.pause_s = pause_s
        self.due_at = time.monotonic() + pause_s
        self.is_called = is_called
        self.error: Exception | None = None

    def wait_on(self, now: float) -> None:
        """Set the next look. Those of all who have waited for long fall together, and are one."""
        self.pause_s *= 1.5
        if self.pause_s < LONGEST_PAUSE_S:
            self.due_at = now + self.pause_s
        else:
            self.due_at = (now // LONGEST_PAUSE_S + 1) * LONGEST_PAUSE_S


class Room(Generic[K]):
    """Where callers wait for something to happen, each by a key, and one thread looks for all of them together."""

    def __init__(
        self,
        find: Callable[[Collection[K]], Collection[K]],
        *,
        most: int = MOST_WAITERS,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """Wait for nothing yet.

        Args:
            find: of some keys, those for which it has happened. It may raise anything: who waits is then told.
            most: callers.
            first_pause_s: before the first look for somebody who comes.
        """
        self._find = find
        self._most = most
        self._first_pause_s = first_pause_s
        self._changed = threading.Condition()
        self._waiters: set[_Waiter[K]] = set()
        self._is_watched = False
        self._closes_at = math.inf

    @property
    def waiters(self) -> int:
        """How many wait."""
        return len(self._waiters)

    @property
    def is_open(self) -> bool:
        """Whether anybody may wait still."""
        return time.monotonic() < self._closes_at

    def close(self, *, within_s: float) -> None:
        """End every wait within these seconds, those that have yet to begin included: this process is to end."""
        with self._changed:
            self._closes_at = time.monotonic() + within_s
            self._changed.notify()

    def wait(self, key: K, seconds: float, *, is_called: threading.Event | None = None) -> bool:
        """Wait until it happens, the time is over, the room closes, or somebody else sets the event.

        Returns:
            False: there is no room, and nobody has waited.

        Raises:
            Exception: what the look has raised.
        """
        waiter = self._enter(key, is_called or threading.Event())
        if waiter is None:
            return False
        try:
            waiter.is_called.wait(seconds)
        finally:
            self._waiters.discard(waiter)
        if waiter.error is not None:
            raise waiter.error
        return True

    def look_until(self, is_over: Callable[[T], bool], look: Callable[[], T], key: K, wait_s: float) -> T:
        """Look, and look again when it happens, until that is over, or the time, or the room closes.

        Args:
            is_over: whether what was seen is what is waited for.
            look: what it raises is passed on, and so is what the looks for all raise.
            key: of what is waited for.
            wait_s: seconds, at most :data:`MAX_WAIT_S`; 0 looks once.

        Returns:
            What was seen last.
        """
        deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
        seen = look()
        while not is_over(seen) and time.monotonic() < deadline and self.is_open:
            if not self.wait(key, deadline - time.monotonic()):
                metrics.shed["waiting"].inc()
                break
            if self.is_open:  # or all who wait would look at once
                seen = look()
        return seen

    def _enter(self, key: K, is_called: threading.Event) -> _Waiter[K] | None:
        """Return whoever waits now; None: there is no room."""
        with self._changed:
            if len(self._waiters) >= self._most:
                return None
            waiter = _Waiter(key, is_called, self._first_pause_s)
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

    def _look(self, due: list[_Waiter[K]]) -> None:
        """Look once for all of these."""
        try:
            found = self._find({waiter.key for waiter in due})
        except Exception as error:  # noqa: BLE001 - it is theirs
            for waiter in due:
                waiter.error = error
            self._call(due)
            return
        now = time.monotonic()
        for waiter in due:
            waiter.wait_on(now)
        self._call([waiter for waiter in due if waiter.key in found])

    def _call(self, waiters: list[_Waiter[K]]) -> None:
        for waiter in waiters:
            self._waiters.discard(waiter)
            waiter.is_called.set()
