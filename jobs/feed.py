"""The feed: what numbers events as they come, and forgets them when they are old. It runs in the passes of the relay.

One relay at a time is enough; should there be more for a moment, PostgreSQL lets one of them number.
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger import events

# Batches numbered in one transaction, and transactions of one pass: a pass has a lock to prolong.
MOST_AT_ONCE = 500
MOST_TIMES = 10
# Batches forgotten at once; and how often, unless there are more of them.
MOST_FORGOTTEN = 500
FORGET_S = 60.0

_log = structlog.get_logger("relay")


class Feed:
    """Numbers and forgets the events of one database, a bounded amount a pass."""

    def __init__(self, engine: Engine, *, days: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``days``: how long events are kept. Nothing is done yet."""
        self._engine = engine
        self._days = days
        self._clock = clock
        self._next_forgetting = 0.0

    def run_once(self) -> int:
        """Number what there is, and now and then forget what is old; return how many batches were numbered.

        What PostgreSQL does not do now the next pass does, and the relay has other things to see to.
        """
        count = 0
        try:
            for _ in range(MOST_TIMES):
                numbered = events.number(self._engine, most=MOST_AT_ONCE)
                count += numbered
                if numbered < MOST_AT_ONCE:
                    break
            self._forget_if_due()
        except Unavailable as error:
            _log.warning("feed stands still", cause=first_line(error))
        return count

    def _forget_if_due(self) -> None:
        if self._clock() < self._next_forgetting:
            return
        forgotten = events.forget(self._engine, older_than_days=self._days, limit=MOST_FORGOTTEN)
        if forgotten < MOST_FORGOTTEN:
            self._next_forgetting = self._clock() + FORGET_S
