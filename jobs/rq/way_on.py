"""The way onto RQ's ``transfers`` queue, from a request.

PostgreSQL has the transfer before it is enqueued, so nothing here can lose one, and nothing here raises: a transfer
that did not get onto the queue is found by the relay. Nor is RQ imported: this is in every process of the API.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import redis
import structlog

from config import Settings
from jobs.rq.keys import ENQUEUE, NewJob, RqKeys, enqueueing
from models.ledger.attempts import Due
from models.redis_line.circuit import Circuit
from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine
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


class RqWayOn:
    """Puts accepted transfers on the queue; when Redis is away it knows so, and does not ask every time."""

    dependency = "redis"

    def __init__(self, connection: redis.Redis) -> None:
        """Connect to nothing yet."""
        self._line = RedisLine(connection, [ENQUEUE])
        self._circuit = Circuit()
        self._accepted: SimpleQueue[NewJob | None] = SimpleQueue()
        self._feeder: threading.Thread | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def put_on(self, due: Due) -> None:
        """Have a recorded transfer put on the queue, within moments, by a thread that takes all there are in one go.

        Nobody has to wait for that: the transfer is durable, and what the thread cannot do the relay does.
        """
        if self._feeder is None:
            self._start_feeder()
        if self._accepted.qsize() < MOST_ACCEPTED:
            self._accepted.put(NewJob(due.id, due.trace))

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
        if not self._circuit.allows():
            return False
        try:
            ((_, refused),) = self._line.ask(enqueueing(jobs, lost=lost))
        except redis.RedisError as error:
            self._circuit.failed()
            _log.warning("not enqueued", job_ids=[str(job.id) for job in jobs[:10]], cause=type(error).__name__)
            return False
        self._circuit.succeeded()
        return not refused  # for want of room: PostgreSQL has them, and the relay feeds them in

    def close(self) -> None:
        """Put what was accepted on the queue, and hang up."""
        with self._lock:
            feeder, self._feeder = self._feeder, None
        if feeder is not None:
            self._accepted.put(None)
            feeder.join(CLOSE_TIMEOUT_S)
        self._line.close()

    def _start_feeder(self) -> None:
        with self._lock:
            if self._feeder is None:
                self._feeder = background.start("queue_feeder", self._feed)

    def _feed(self) -> None:
        """Put jobs on the queue, as many at once as there are, until told to end."""
        next_at = 0.0
        while not self._is_over:
            jobs = [self._accepted.get()]
            if jobs[0] is not None and (pause_s := next_at - time.monotonic()) > 0:
                time.sleep(pause_s)
            next_at = time.monotonic() + PACE_S
            with suppress(Empty):
                while len(jobs) < MOST_AT_ONCE:
                    jobs.append(self._accepted.get_nowait())
            self._is_over = None in jobs
            if new := [job for job in jobs if job is not None]:
                self._push(new, lost=False)

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
