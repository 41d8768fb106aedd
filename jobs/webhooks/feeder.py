"""The feeder: plans deliveries of new events, and puts what is due on the queue. One process at a time is enough."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from sqlalchemy import Engine

from models.database.faults import first_line
from models.database.turn import Turn
from models.errors import Unavailable
from models.webhooks import deliveries
from models.webhooks.deliveries import Held
from models.webhooks.fan_out import plan
from models.webhooks.tidying import tidy

TURN = "webhooks"
# A feeder that dies is followed by another after this many seconds.
TURN_S = 5.0
# Between two passes, and after one that had something to do; less, if an attempt of this process succeeds before.
PAUSE_S, SHORT_PAUSE_S = 0.25, 0.05
# A pass that had nothing to do is followed by a pause that is this many times as long; one that failed by the longest.
REST = 9.0
LONGEST_PAUSE_S = 2.0
# While there is room again and again, between two passes: those in between only fill it.
PASS_S = 0.1
# Deliveries deleted at once, and how often, unless there are more of them.
MOST_TIDIED = 1_000
TIDY_S = 60.0

_log = structlog.get_logger("webhooks")


class Away(Exception):
    """The queue does not answer, or has no room."""


class Queue(Protocol):
    """What carries deliveries to those who send them. It may lose any, and carry any twice."""

    def put_on(self, held: Sequence[Held]) -> None:
        """Have them sent; those that are on it already need not be put there again.

        Raises:
            Away: they will not be.
        """


class Feeder:
    """Feeds one queue, a bounded amount a pass."""

    def __init__(
        self, engine: Engine, queue: Queue, *, days: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``days``: how long deliveries are kept that are over."""
        self._engine = engine
        self._queue = queue
        self._days = days
        self._clock = clock
        self._next_tidying = 0.0

    def run_once(self) -> int:
        """Plan, feed and tidy a bounded amount; return how many deliveries were planned or fed.

        Raises:
            Unavailable: PostgreSQL is away.
            Away: the queue is. What is due is so still, in a moment.
        """
        planned = plan(self._engine)
        held = self._feed(deliveries.hold(self._engine))
        self._tidy_if_due()
        return held + planned.deliveries

    def fill(self) -> int:
        """Feed what is due, as far as there is room, and do nothing else; return how many deliveries were fed.

        Raises:
            Unavailable, Away: as above.
        """
        return self._feed(deliveries.hold(self._engine, only_room=True))

    def _feed(self, held: Sequence[Held]) -> int:
        if held:
            try:
                self._queue.put_on(held)
            except Away:
                with suppress(Unavailable):
                    deliveries.let_go(self._engine, held)
                raise
        return len(held)

    def _tidy_if_due(self) -> None:
        if self._clock() < self._next_tidying:
            return
        if tidy(self._engine, older_than_days=self._days, limit=MOST_TIDIED) < MOST_TIDIED:
            self._next_tidying = self._clock() + TIDY_S


class FeederThread:
    """Runs a feeder beside those who send, while it is this process's turn."""

    def __init__(self, feeder: Feeder, engine: Engine, has_room: threading.Event) -> None:
        """``has_room``: set whenever an attempt has succeeded here, so that the next one need not wait for a pass."""
        self._feeder = feeder
        self._turn = Turn(engine, TURN, ttl_s=TURN_S)
        self._has_room = has_room
        self._stop = threading.Event()
        self._next_pass = 0.0

    def run(self) -> None:
        """Feed until told to stop."""
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                is_busy = self._turn.is_mine() and self._go_round(began)
            except (Unavailable, Away) as error:
                _log.warning("nothing is fed", cause=first_line(error))
                self._stop.wait(LONGEST_PAUSE_S)
            else:
                self._wait(time.monotonic() - began, is_busy=is_busy)
        with suppress(Unavailable):
            self._turn.give_back()

    def stop(self) -> None:
        """End after the pass that is running."""
        self._stop.set()
        self._has_room.set()

    def _go_round(self, now: float) -> bool:
        """Do what is due now, and return whether there may soon be more of it."""
        if now < self._next_pass:
            self._feeder.fill()
            return True
        self._next_pass = now + PASS_S
        return self._feeder.run_once() > 0

    def _wait(self, spent_s: float, *, is_busy: bool) -> None:
        self._has_room.wait(SHORT_PAUSE_S if is_busy else max(PAUSE_S, min(LONGEST_PAUSE_S, REST * spent_s)))
        self._has_room.clear()
