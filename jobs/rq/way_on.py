"""The way onto RQ's ``transfers`` queue, from a request.

PostgreSQL has the transfer before it is enqueued, so nothing here can lose one, and nothing here raises: a transfer
that did not get onto the queue is found by the relay. Nor is RQ imported: this is in every process of the API.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import redis
import structlog

from config import Settings
from jobs.rq.keys import ENQUEUE, FINISH, PLAN, ComingJob, NewJob, RqKeys, enqueueing, finishing, showing
from models.ledger.attempts import Due
from models.redis_line.circuit import Circuit
from models.redis_line.client import connect_redis
from models.redis_line.line import Command, RedisLine
from observe import background

# Accepted transfers that wait in memory to be put on the queue. Beyond it, which only a silent Redis can cause, the
# relay finds them.
MOST_ACCEPTED = 10_000
# Put on the queue in one call.
MOST_AT_ONCE = 200
# Put on in one call, of those that were accepted together.
MOST_OF_BULK = 1_000
# Between two calls: a lone transfer goes at once, and those that follow one another closely go together.
PACE_S = 0.003
# What an ending process waits for its last ones.
CLOSE_TIMEOUT_S = 2.0

# Refused wherever writing is.
_WRITES_NOTHING = ("LPUSHX", "wallet:nothing", "")

_log = structlog.get_logger("queue")


class _Ended(NamedTuple):
    """A transfer that was called off."""

    id: int


class _End(NamedTuple):
    """There is nothing more to come."""


_News: TypeAlias = NewJob | ComingJob | _Ended | _End


class RqWayOn:
    """Puts accepted transfers on the queue; when Redis is away it knows so, and does not ask every time."""

    dependency = "redis"

    def __init__(self, connection: redis.Redis) -> None:
        """Connect to nothing yet."""
        self._line = RedisLine(connection, [ENQUEUE, PLAN, FINISH])
        self._circuit = Circuit()
        self._accepted: SimpleQueue[_News] = SimpleQueue()
        self._feeder: threading.Thread | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def put_on(self, due: Due) -> None:
        """Have a recorded transfer put on the queue, within moments, by a thread that takes all there are in one go.

        Nobody has to wait for that: the transfer is durable, and what the thread cannot do the relay does.
        """
        self._put(NewJob(due.id, due.trace))

    def show_planned(self, planned: Due, at: datetime) -> None:
        """Have a recorded transfer shown as scheduled, by the same thread; what it cannot do the relay does."""
        self._put(ComingJob(planned.id, planned.trace, at))

    def take_off(self, transfer_id: int) -> None:
        """Have the job of a transfer that was called off booked as finished, by the same thread, or the relay."""
        self._put(_Ended(transfer_id))

    def _put(self, news: _News) -> None:
        if self._feeder is None:
            self._start_feeder()
        if self._accepted.qsize() < MOST_ACCEPTED:
            self._accepted.put(news)

    def put_all_on(self, dues: Sequence[Due]) -> None:
        """Put recorded transfers on the queue, a bounded number at a time. What finds no room the relay feeds in."""
        jobs = [NewJob(each.id, each.trace) for each in dues]
        for first in range(0, len(jobs), MOST_OF_BULK):
            if not self._push(jobs[first : first + MOST_OF_BULK], lost=False):
                return

    def put_back(self, dues: Sequence[Due]) -> bool:
        """Put transfers on the queue that were on it before, those that nobody has; return whether they are there."""
        return self._push([NewJob(each.id, each.trace, each.lost_leases) for each in dues], lost=True)

    def _push(self, jobs: Sequence[NewJob], *, lost: bool) -> bool:
        told = self._tell(enqueueing(jobs, lost=lost), [job.id for job in jobs])
        return told is not None and not told[1]  # for want of room: PostgreSQL has them, and the relay feeds them in

    def _tell(self, command: Command, ids: Sequence[int]) -> Any:
        """Return what Redis answers, None if it does not."""
        if not self._circuit.allows():
            return None
        try:
            (told,) = self._line.ask(command)
        except redis.RedisError as error:
            self._circuit.failed()
            _log.warning("not enqueued", job_ids=[str(each) for each in ids[:10]], cause=type(error).__name__)
            return None
        self._circuit.succeeded()
        return told

    def close(self) -> None:
        """Put what was accepted on the queue, and hang up."""
        with self._lock:
            feeder, self._feeder = self._feeder, None
        if feeder is not None:
            self._accepted.put(_End())
            feeder.join(CLOSE_TIMEOUT_S)
        self._line.close()

    def _start_feeder(self) -> None:
        with self._lock:
            if self._feeder is None:
                self._feeder = background.start("queue_feeder", self._feed)

    def _feed(self) -> None:
        """Tell Redis of what comes, as much at once as there is, until told to end."""
        next_at = 0.0
        while not self._is_over:
            news = [self._accepted.get()]
            if not isinstance(news[0], _End) and (pause_s := next_at - time.monotonic()) > 0:
                time.sleep(pause_s)
            next_at = time.monotonic() + PACE_S
            with suppress(Empty):
                while len(news) < MOST_AT_ONCE:
                    news.append(self._accepted.get_nowait())
            self._is_over = _End() in news
            if new := [each for each in news if isinstance(each, NewJob)]:
                self._push(new, lost=False)
            if coming := [each for each in news if isinstance(each, ComingJob)]:
                self._tell(showing(coming), [each.id for each in coming])
            if ended := [each.id for each in news if isinstance(each, _Ended)]:  # after what there was to show of them
                self._tell(finishing(ended), ended)

    def ping(self) -> bool:
        """Whether Redis answers, and takes what is written: neither a full one does, nor a replica."""
        try:
            self._line.ask(_WRITES_NOTHING)
        except redis.RedisError:
            return False
        return True


def make(settings: Settings) -> RqWayOn:
    """Make it on a client of its own."""
    return RqWayOn(connect_redis(settings.redis_url.get_secret_value()))


def make_counter(settings: Settings) -> Callable[[], dict[str, int]]:
    """Return what counts RQ's jobs by their state."""
    return RqKeys(connect_redis(settings.redis_url.get_secret_value())).count
