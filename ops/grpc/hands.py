"""The threads that answer calls.

By itself grpcio gives a call a thread when its head has come, which then waits for its message: for ever, if none
follows, so that a few such calls hold a whole process; and otherwise for a moment, which costs two changes of threads.
Here the message is awaited first, without a thread, and not for ever.

For that a few private names of grpcio are used, all of them in :class:`_Arrival`. Whatever does not look as expected
there is done grpcio's own way; tests notice, and so does whoever changes the pinned version.
"""

import importlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from models.company import keep_company
from observe import background

# Neither has types.
_server: Any = importlib.import_module("grpc._server")
_core: Any = importlib.import_module("grpc._cython.cygrpc")

# For a message. It comes with the head, or a moment later.
SILENCE_S = 5.0
# When there are so many that others may find no room.
SILENCE_IN_A_CROWD_S = 0.25
CROWD = 64
_TICK_S = 0.05
# When calls wait and nobody has taken any for so long, all threads wait for something else.
HELD_UP_S = 0.02

_Work = tuple["Future[None]", Callable[..., Any], tuple[Any, ...]]


class Hands(ThreadPoolExecutor):
    """So many threads; a call is in hand from the arrival of its message until it has been answered."""

    def __init__(
        self,
        few: int,
        *,
        most: int = 0,
        together: int = 1,
        gather_s: float = 0.0,
        name: str = "grpc",
    ) -> None:
        """Have no threads yet.

        Args:
            few: how many there are as a rule. The fewer, the more calls come together.
            most: how many there may be while those that there are wait for something; by default no more than that.
            together: as many calls at most as one of them answers in the same go (``models/company.py``).
            gather_s: how long others are waited for, while there are any.
            name: of the threads.
        """
        # Which grpcio asks for. Nothing of it is used: what it does beyond what is needed here costs a sixth of a call.
        super().__init__(1)
        self._few, self._most = few, max(few, most)
        self._together, self._gather_s = together, gather_s
        self._name = name
        self._waiting: SimpleQueue[_Work] = SimpleQueue()
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._in_hand = self._threads_made = 0
        self._taken_at = 0.0
        self._silent: dict[_Arrival, None] = {}
        self._is_watched = False

    @property
    def in_hand(self) -> int:
        """How many calls are being answered, or wait for it."""
        return self._in_hand

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Have a call answered, once its message has come: grpcio hands in all that it knows of the call."""
        arrival = _Arrival.of(self, fn, args) if not kwargs else None
        if arrival is None:
            return self.take(Future(), fn, args)
        return arrival.future

    def take(self, future: "Future[None]", fn: Callable[..., Any], args: tuple[Any, ...]) -> "Future[None]":
        """Have something done by a thread."""
        with self._lock:
            self._in_hand += 1
            makes_one = self._threads_made < min(self._in_hand, self._few)
            self._threads_made += makes_one
        self._waiting.put((future, fn, args))
        if makes_one:
            self._make_thread()
        return future

    def _relieve(self) -> None:
        """Have one thread more if those that there are have taken no call for a while, though some wait."""
        with self._lock:
            is_held_up = not self._waiting.empty() and time.monotonic() - self._taken_at > HELD_UP_S
            if not is_held_up or self._threads_made >= self._most:
                return
            self._threads_made += 1
        self._make_thread()

    def _make_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:
            # The system has none to give. Here it would end grpcio's own thread; so one that there is takes the call,
            # or one that is made for the next.
            background.report("grpc_calls", error)
            with self._lock:
                self._threads_made -= 1

    def _work(self) -> None:
        while True:
            with self._turn:
                taken = self._take_some()
            if len(taken) == 1:
                self._answer(*taken.pop())
            else:
                keep_company([partial(self._answer, *work) for work in taken])
            # Nothing of a call outlives it while the next one is awaited.
            del taken
            with self._lock:
                if self._threads_made > self._few and self._waiting.empty():
                    self._threads_made -= 1
                    return

    def _take_some(self) -> list[_Work]:
        """Wait for a call. If there are others in hand, more are on their way: those are taken as well.

        One thread at a time does so, or each would have one call.
        """
        taken = [self._waiting.get()]
        if self._in_hand > 1:
            if self._gather_s:
                time.sleep(self._gather_s)
            with suppress(Empty):
                while len(taken) < self._together:
                    taken.append(self._waiting.get_nowait())
        self._taken_at = time.monotonic()
        return taken

    def _answer(self, future: "Future[None]", fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        except BaseException as error:  # noqa: BLE001 - grpcio sees to what calls raise; so it is grpcio's own
            background.report("grpc_calls", RuntimeError(str(error)))
        finally:
            with self._lock:
                self._in_hand -= 1
            future.set_result(None)

    def expect(self, arrival: "_Arrival") -> None:
        """Note a call whose message has not come."""
        self._silent[arrival] = None
        if not self._is_watched:
            with self._lock:
                is_first, self._is_watched = not self._is_watched, True
            if is_first and background.start("grpc_calls", self._look_after) is None:
                self._is_watched = False

    def forget(self, arrival: "_Arrival") -> None:
        """Note that it has, or that it never will."""
        self._silent.pop(arrival, None)

    def cancel_silent(self, since_s: float) -> None:
        """Cancel the calls whose message has been waited for for so long."""
        before = time.monotonic() - since_s
        for arrival in list(self._silent):
            if arrival.at <= before:
                arrival.cancel()

    def _look_after(self) -> None:
        """Cancel who is silent for too long, and see that nobody waits for those who wait, as long as this lives."""
        while True:
            time.sleep(_TICK_S)
            self._relieve()
            self.cancel_silent(SILENCE_S if len(self._silent) <= CROWD else SILENCE_IN_A_CROWD_S)


class _Arrival:
    """A call whose head has come, and whose only message is on its way."""

    __slots__ = ("_asked", "_hands", "_receive", "_run", "at", "future")

    def __init__(self, hands: Hands, run: Callable[..., Any], asked: "_Handed") -> None:
        self.at = time.monotonic()
        self.future: Future[None] = Future()
        self._hands, self._run, self._asked = hands, run, asked
        call, state = asked.event.call, asked.state
        self._receive = _server._receive_message(state, call, asked.deserialize)
        hands.expect(self)
        # As the thread would do it that waits for the message; grpcio holds the lock that this needs.
        call.start_server_batch((_core.ReceiveMessageOperation(_server._EMPTY_FLAGS),), self._come)
        state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    @classmethod
    def of(cls, hands: Hands, run: Callable[..., Any], handed: tuple[Any, ...]) -> "_Arrival | None":
        """Await the message of a call; None: it has none, or any number of them."""
        if len(handed) != len(_Handed._fields):
            return None
        asked = _Handed(*handed)
        return cls(hands, run, asked) if getattr(asked.find, "__name__", "") == "unary_request" else None

    def cancel(self) -> None:
        """End it."""
        self._asked.event.call.cancel()

    def _come(self, event: Any) -> Any:
        """Called by grpcio's own thread, when there is a message or none will come."""
        state = self._asked.state
        self._hands.forget(self)
        outcome = self._receive(event)
        request, state.request = state.request, None
        if request is not None:
            self._hands.take(self.future, self._run, self._asked._replace(find=lambda: request))
        else:
            self._end()
        return outcome

    def _end(self) -> None:
        """End a call that has no message: its caller has gone, or has none to send."""
        state = self._asked.state
        with state.condition:
            if state.client is _server._CLOSED and not state.statused:
                _server._abort(
                    state, self._asked.event.call, _core.StatusCode.invalid_argument, b"There is no message."
                )
        self.future.set_result(None)


class _Handed(NamedTuple):
    """What grpcio hands in of a call, besides its context's way to run something: all that is Any is its own."""

    answer: Callable[..., None]
    event: Any
    state: Any
    behavior: Callable[..., Any]
    find: Callable[[], Any]  # what waits for the message
    deserialize: Any
    serialize: Any
