"""What is to come, as RQ's scheduled registry shows it: a picture of what PostgreSQL knows, and nothing more.

A transfer that is planned, or waits for its next attempt, is put there when that is known. Should Redis be emptied, or
not have been told, the relay draws the picture again: of the next that are to come, and without what is over.
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from jobs.rq.keys import SCHEDULED, ComingJob, RqKeys, transfer_id_of
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.transfer import Status

# How many are shown for certain, of all that are to come.
MOST_LOOKED_AT = 1_000
# Between two looks; and one that took long rests this many times as long.
LOOK_S = 2.0
REST = 50.0

_log = structlog.get_logger("relay")


class Schedule:
    """Keeps the scheduled registry true, a bounded amount at a time."""

    def __init__(self, keys: RqKeys, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at nothing yet."""
        self._keys = keys
        self._engine = engine
        self._clock = clock
        self._next_look = 0.0
        self._looked_to = 0

    def keep_if_due(self) -> None:
        """Show what is to come, and take off what is over; nothing else waits for it if PostgreSQL does not answer.

        Raises:
            redis.RedisError: Redis is away.
        """
        if (began := self._clock()) < self._next_look:
            return
        try:
            self._show()
            self._tidy()
        except Unavailable as error:
            _log.warning("schedule not looked at", cause=first_line(error))
        now = self._clock()
        self._next_look = now + max(LOOK_S, REST * (now - began))

    def _show(self) -> None:
        coming = attempts.find_coming(self._engine, limit=MOST_LOOKED_AT)
        shown = set(self._keys.find_present(SCHEDULED, [str(each.id) for each in coming]))
        if missing := [ComingJob(*each) for each in coming if str(each.id) not in shown]:
            self._keys.show(missing)

    def _tidy(self) -> None:
        """Take off what has ended, of the next page of those that are shown."""
        page = self._keys.look_at(SCHEDULED, self._looked_to, MOST_LOOKED_AT)
        self._looked_to = self._looked_to + len(page) if len(page) == MOST_LOOKED_AT else 0
        ids = [each for each in map(transfer_id_of, page) if each is not None]
        outcomes = attempts.find_outcomes(self._engine, ids) if ids else {}
        ended = [each for each, (status, _) in outcomes.items() if status.is_final and status is not Status.FAILED]
        if ended:
            self._keys.finish("", ended)
