"""The audit of the topics: what PostgreSQL says is pending and due is on its way to a worker.

Some are always just being sent. So the first look only collects suspects, and a finding is one that nobody has at a
second look either, when the relay has had the time to come by.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import Engine

from models.audit.audit import Position, Slice, finding
from models.ledger import attempts
from models.ledger.attempts import BEGINNING, Place

# Between the looks: the relay has been round a few times, and what it sent has arrived. To which comes the time that it
# needs for a long backlog, of which it looks at a page every quarter of a second.
APART_S = 15.0
APART_S_PER_PAGE = 0.5
PAGE = 1_000
# As the audit of RQ's queue has it (jobs/rq/audit_queue.py).
SHARE = 1 / 16
MAX_SUSPECTS = 50


class _Topics(Protocol):
    def find_missing(self, ids: Sequence[int]) -> list[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where it stands, among what is pending since when that is ``due``; all of it is JSON."""

    due: str = BEGINNING.due.isoformat()
    after: int = 0
    pages: int = 0
    again_at: float | None = None
    suspects: list[int] = field(default_factory=list)


class TopicsCheck:
    """Audits the topics against the books. Changes nothing in either."""

    name = "queue"

    def __init__(self, engine: Engine, topics: _Topics, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._topics = topics
        self._clock = clock

    def run(self, position: Position, limit: int) -> Slice:
        """Look at no more than ``limit`` transfers.

        Raises:
            Unavailable: PostgreSQL is away.
            TransportAway: the brokers are.
        """
        place = _Place(**position)
        if place.again_at is not None:
            return self._look_again(place)
        page_size = min(limit, PAGE)
        after = Place(datetime.fromisoformat(place.due), place.after)
        share = 1.0 if page_size == PAGE else SHARE
        page = attempts.find_pending(self._engine, after=after, limit=page_size, share=share)
        suspects = [*place.suspects, *self._topics.find_missing(page.ids)][:MAX_SUSPECTS]
        due, last = page.end.due.isoformat(), page.end.id
        place = replace(place, suspects=suspects, pages=place.pages + 1, due=due, after=last)
        if not page.is_last:
            return Slice(position=asdict(place))
        if not suspects:
            return Slice(position=None)
        apart_s = APART_S + APART_S_PER_PAGE * place.pages
        return Slice(position=asdict(replace(place, again_at=self._clock() + apart_s)), pause_s=apart_s)

    def _look_again(self, place: _Place) -> Slice:
        wait_s = (place.again_at or 0.0) - self._clock()
        if wait_s > 0:
            return Slice(position=asdict(place), pause_s=wait_s)
        missing = self._topics.find_missing(place.suspects)
        # Last, for what was settled meanwhile is pending no longer.
        still = [str(each.id) for each in attempts.find_due(self._engine, missing)] if missing else []
        found = finding("pending_has_job", still, "pending and due, and neither the topics nor a worker has it")
        return Slice(position=None, findings=[found] if found.count else [])
