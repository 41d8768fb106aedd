"""The threads that take calls, and what becomes of calls that say nothing.

grpcio has one of them wait for a call's message, for as long as it does not come: a caller who sends the head of a call
and nothing after it would hold a thread for ever, and a few of them the whole process. So who is silent for too long is
cancelled, and sooner when others wait for the thread.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from observe import background

# For a message. It comes with the head, or a moment later.
SILENCE_S = 5.0
# When others wait for the thread.
SILENCE_IN_A_CROWD_S = 0.25
_TICK_S = 0.1


class _Turn:
    """A call in a thread, or on its way to one; ``call`` can be cancelled."""

    __slots__ = ("begun_at", "call")

    def __init__(self, call: Any) -> None:
        self.call = call
        self.begun_at = 0.0


class Hands(ThreadPoolExecutor):
    """So many threads. Each call is in hand from its arrival to its end."""

    def __init__(self, count: int, *, silence_s: float = SILENCE_S, name: str = "grpc") -> None:
        super().__init__(count, thread_name_prefix=name)
        self._count = count
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._in_hand = 0
        # By the thread that waits for their messages.
        self._silent: dict[int, _Turn] = {}
        self._is_watched = False

    @property
    def in_hand(self) -> int:
        """How many calls are being answered, or wait for it."""
        return self._in_hand

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Have a call answered: grpcio hands in what it knows of it, its event among the arguments."""
        turn = _Turn(next((each.call for each in args if hasattr(each, "call_details")), None))
        with self._lock:
            self._in_hand += 1
        try:
            return super().submit(self._take, turn, fn, *args, **kwargs)
        except BaseException:
            self._put_down()
            raise

    def has_come(self) -> None:
        """Say in the thread of a call that its message is there."""
        self._silent.pop(threading.get_ident(), None)

    def _take(self, turn: _Turn, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        me = threading.get_ident()
        turn.begun_at = time.monotonic()
        self._silent[me] = turn
        if not self._is_watched:
            self._watch()
        try:
            return fn(*args, **kwargs)
        finally:
            self._silent.pop(me, None)
            self._put_down()

    def _put_down(self) -> None:
        with self._lock:
            self._in_hand -= 1

    def _watch(self) -> None:
        with self._lock:
            if self._is_watched:
                return
            self._is_watched = True
        background.start("grpc_calls", self._end_silent)

    def _end_silent(self) -> None:
        """Cancel who is silent for too long, as long as this process lives."""
        while True:
            time.sleep(_TICK_S)
            self.cancel_silent(self._silence_s if self._in_hand <= self._count else SILENCE_IN_A_CROWD_S)

    def cancel_silent(self, since_s: float) -> None:
        """Cancel the calls whose message has been waited for for so long."""
        before = time.monotonic() - since_s
        for turn in list(self._silent.values()):
            if turn.begun_at <= before and turn.call is not None:
                turn.call.cancel()
