"""RQ's queue as the relay sees it: what it has, what it has lost, and what dead workers hold of it."""

import time
from collections.abc import Callable, Sequence

import redis
from sqlalchemy import Engine

from config import Settings
from jobs.connections import connect_worker_redis
from jobs.killers import MAX_LOST, note_dead
from jobs.rq.audit_queue import QueueCheck
from jobs.rq.keys import NewJob, RqKeys, transfer_id_of
from jobs.rq.schedule import Schedule
from jobs.transport import Fed
from models.audit.audit import Check
from models.database.engine import transaction
from models.ledger import attempts
from models.ledger.attempts import Due

MAX_REAPED = 1_000
# "Queued" is checked against the list itself, which is as long as the backlog: the longer, the less often.
LIST_CHECK_S = 1.0
LIST_CHECK_S_PER_JOB = 0.0005
# How often the names of workers that were killed are forgotten.
FORGET_S = 60.0
# Each of these costs a walk along the list inside Redis.
MAX_MISSING_FROM_LIST = 200


class RqBacklog:
    """All of it raises :class:`redis.RedisError` when Redis is away."""

    faults: tuple[type[Exception], ...] = (redis.RedisError,)

    def __init__(self, connection: redis.Redis, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = RqKeys(connection)
        self._engine = engine
        self._clock = clock
        self._next_list_check = self._next_forgetting = 0.0
        self._schedule = Schedule(self._keys, engine, clock=clock)

    def take_back(self) -> int:
        """Take back the jobs of workers that died or hang, and remember in PostgreSQL that they were lost.

        Redis names those that have lost many leases; PostgreSQL, which knows in which generation, has the last word.
        """
        self._forget_workers_if_due()
        self._schedule.keep_if_due()
        reaped = self._keys.reap(limit=MAX_REAPED)
        moved = {int(each): lost for each, lost in reaped.moved.items() if transfer_id_of(each)}
        killers = [int(each) for each in reaped.killers if transfer_id_of(each)]
        if not moved and not killers:
            return len(reaped.moved)
        with transaction(self._engine) as connection:
            leases = attempts.count_lost(connection, moved | dict.fromkeys(killers, MAX_LOST))
            dead = attempts.fail_lost(connection, killers, most=MAX_LOST) if killers else {}
        note_dead(dead)
        for transfer_id, spent in dead.items():
            self._keys.bury(transfer_id, generation=spent.generation, error="its worker died each time")
        spared = {each: leases[each] for each in killers if each in leases and each not in dead}
        if spared:
            self._keys.spare(spared)
        if settled := [each for each in killers if each not in leases]:
            self._book_settled(settled)
        return len(reaped.moved) + len(spared)

    def _book_settled(self, transfer_ids: Sequence[int]) -> None:
        """Book those that turned out to be final: their last worker posted them, and died before it could."""
        dead = attempts.find_dead_generations(self._engine, transfer_ids)
        self._keys.finish("", [each for each in transfer_ids if each not in dead])
        for transfer_id, generation in dead.items():
            self._keys.bury(transfer_id, generation=generation, error="its worker died each time")

    def _forget_workers_if_due(self) -> None:
        if self._clock() >= self._next_forgetting:
            self._keys.forget_workers()
            self._next_forgetting = self._clock() + FORGET_S

    def find_missing(self, ids: Sequence[int]) -> list[int]:
        """Return those that no list, worker or lease has."""
        listed = self._list_if_due()
        if not ids:
            return []
        gone, queued = self._keys.examine(ids)
        if listed is not None:
            gone += [each for each in queued if each not in listed][:MAX_MISSING_FROM_LIST]
        return gone

    def _list_if_due(self) -> set[int] | None:
        """Return the ids that stand in the list, None when it is not time to look."""
        if self._clock() < self._next_list_check:
            return None
        listed = self._keys.queued_ids()
        self._next_list_check = self._clock() + LIST_CHECK_S + LIST_CHECK_S_PER_JOB * len(listed)
        return listed

    def feed(self, dues: Sequence[Due]) -> Fed:
        """Enqueue those that nobody has, as long as there is room."""
        return self._keys.feed([NewJob(each.id, each.trace, each.lost_leases) for each in dues])

    def announce(self) -> int:
        """Tell nobody: RQ has its registries."""
        return 0

    def make_check(self, engine: Engine) -> Check:
        """Return the audit of the queue."""
        return QueueCheck(engine, self._keys)


def make(settings: Settings, engine: Engine) -> RqBacklog:
    """Make it on a client of its own."""
    return RqBacklog(connect_worker_redis(settings.redis_url.get_secret_value()), engine)
