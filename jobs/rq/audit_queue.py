"""The audit of the queue: what PostgreSQL says is pending has a job, and what has a job is not over.

Between the two are always some that are on their way: just accepted and not yet enqueued, just posted and not yet
booked, in the hands of a worker that has just died. The relay brings each of these in order within seconds. So the
first look only collects suspects, and a finding is one that is just as wrong at a second look, when the relay has had
the time to come by.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from jobs.rq.keys import FAILED, QUEUE, SCHEDULED, STARTED, RqKeys, transfer_id_of
from models.audit.audit import Finding, Position, Slice, finding
from models.ledger import attempts
from models.ledger.attempts import BEGINNING, Place
from models.ledger.transfer import Status

# Between the looks: a lease of the queue's has run out by then, and the relay has been round a few times. To which
# comes the time that a relay needs to go through everything, which is longer with a long backlog: it looks at a page of
# pending transfers every quarter of a second, and at the list the less often the longer it is (jobs/relay.py).
APART_S = 15.0
APART_S_PER_PAGE = 0.5
APART_S_PER_JOB = 0.001
PAGE = 1_000
# A slice that is smaller than a page looks less far, too: how far, of all that is ahead. Where much was settled that
# vacuum has not removed, one look would go through all of it (models/ledger/frontier.py).
SHARE = 1 / 16
# Suspects of each kind that are looked at again. Should there be more, that they are so many is found all the same.
MAX_SUSPECTS = 50
# A longer list is not compared, job by job, with what says of itself that it is queued: that is the relay's work.
MAX_LISTED = 20_000

# Which transfers a job may stand for, where it stands. A dead letter on the queue was requeued on rq-dashboard, and is
# reopened when it is claimed; one in the failed registry may have been reopened this very moment.
_MAY_BE = {
    QUEUE: {Status.PENDING, Status.FAILED},
    SCHEDULED: {Status.PENDING},
    FAILED: {Status.FAILED, Status.PENDING},
}
_PENDING, _LEASES, _AGAIN = "pending", "leases", "again"
_WALKS = [_PENDING, *_MAY_BE, _LEASES]
_WORDS = {QUEUE: "on the queue", SCHEDULED: "in the scheduled registry", FAILED: "in the failed registry"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the audit of the queue stands; all of it is JSON.

    ``walk``: one of :data:`_WALKS`, then the second look. ``after``: how far along that walk, and among what is pending
    since when that is ``due``. ``again_at``: when the second look is due. ``suspects``: by the walk that found them.
    """

    walk: str = _PENDING
    after: int = 0
    due: str = BEGINNING.due.isoformat()
    pages: int = 0
    again_at: float | None = None
    suspects: dict[str, list[str]] = field(default_factory=dict)


class QueueCheck:
    """Audits the queue against the books of one database. Changes nothing in either."""

    name = "queue"

    def __init__(self, engine: Engine, keys: RqKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._keys = keys
        self._clock = clock

    def run(self, position: Position, limit: int) -> Slice:
        """Look at no more than ``limit`` transfers or jobs.

        Raises:
            Unavailable: PostgreSQL is away.
            redis.RedisError: Redis is away.
        """
        place = _Place(**position)
        if place.walk == _AGAIN:
            return self._look_again(place)
        look = {_PENDING: self._pending, _LEASES: self._leases}.get(place.walk, self._jobs)
        page = min(limit, PAGE)
        is_over, wrong, reached = look(place, page)
        suspects = {**place.suspects}
        if wrong:
            suspects[place.walk] = [*suspects.get(place.walk, []), *wrong][:MAX_SUSPECTS]
        place = replace(place, suspects=suspects, pages=place.pages + 1, **reached)
        if not is_over:
            return _on(place)
        return _on(replace(place, walk=[*_WALKS, _AGAIN][_WALKS.index(place.walk) + 1], after=0))

    def _pending(self, place: _Place, limit: int) -> tuple[bool, list[str], dict[str, Any]]:
        """Look at transfers that are pending and due: does nobody have the job of any?"""
        after = Place(datetime.fromisoformat(place.due), place.after)
        share = 1.0 if limit == PAGE else SHARE
        page = attempts.find_pending(self._engine, after=after, limit=limit, share=share)
        gone: list[int] = []
        if page.ids:
            gone, queued = self._keys.examine(page.ids)
            if queued and self._keys.queue_length() <= MAX_LISTED:
                listed = self._keys.queued_ids()
                gone += [each for each in queued if each not in listed]
        reached = {"due": page.end.due.isoformat(), "after": page.end.id}
        return page.is_last, [str(each) for each in gone], reached

    def _jobs(self, place: _Place, limit: int) -> tuple[bool, list[str], dict[str, Any]]:
        """Look at jobs where they stand: is there any whose transfer is over, or does not exist?"""
        page = self._keys.look_at(place.walk, place.after, limit)
        return len(page) < limit, self._misplaced(place.walk, page), {"after": place.after + len(page)}

    def _leases(self, _place: _Place, limit: int) -> tuple[bool, list[str], dict[str, Any]]:
        """Look at leases that have run out: were they not taken back?"""
        return True, self._keys.run_out(limit), {}

    def _misplaced(self, key: str, jobs: Sequence[str]) -> list[str]:
        if not jobs:
            return []
        ids = {job: transfer_id_of(job) for job in jobs}
        outcomes = attempts.find_outcomes(self._engine, [each for each in ids.values() if each is not None])
        statuses = {each: outcome.status for each, outcome in outcomes.items()}
        return [job for job, each in ids.items() if each is None or statuses.get(each) not in _MAY_BE[key]]

    def _look_again(self, place: _Place) -> Slice:
        """Look at the suspects once more, when the relay has had the time to see to them."""
        if not place.suspects:
            return Slice(position=None)
        if place.again_at is None:
            apart_s = APART_S + APART_S_PER_PAGE * place.pages + APART_S_PER_JOB * self._keys.queue_length()
            return _on(replace(place, again_at=self._clock() + apart_s), pause_s=apart_s)
        wait_s = place.again_at - self._clock()
        if wait_s > 0:
            return _on(place, pause_s=wait_s)
        return Slice(position=None, findings=list(self._confirm(place)))

    def _confirm(self, place: _Place) -> list[Finding]:
        found = []
        # What finds no room on the queue waits in PostgreSQL, and nobody is to have it.
        if (ids := [int(each) for each in place.suspects.get(_PENDING, [])]) and not self._keys.may_be_full():
            lost = self._keys.find_lost(ids)
            # Last, for what was settled meanwhile is lost and pending no longer.
            still = [str(each.id) for each in attempts.find_due(self._engine, lost)]
            found.append(
                finding("pending_has_job", still, "pending and due, and neither the queue nor a worker has it")
            )
        for key in _MAY_BE:
            still = self._misplaced(key, self._keys.find_present(key, place.suspects.get(key, [])))
            found.append(
                finding("job_has_open_transfer", still, f"{_WORDS[key]}, though its transfer is over or is none")
            )
        if leases := place.suspects.get(_LEASES):
            present = set(self._keys.find_present(STARTED, leases)) & set(self._keys.run_out(PAGE))
            still = [each.partition(":")[0] for each in leases if each in present]
            found.append(finding("lease_is_taken_back", still, "held under a lease that ran out long ago"))
        return [each for each in found if each.count]


def _on(place: _Place, **of_slice: Any) -> Slice:
    return Slice(position=asdict(place), **of_slice)
