"""The batching RQ worker: claims many waiting jobs at once, posts them as one batch, books them in one step.

It is an RQ worker in all that is seen from outside (registration, heartbeats, suspension, warm shutdown, commands),
and keeps RQ's own loop; what is replaced is how work is taken and how it is run. A lone job is taken at once, alone;
whatever has gathered while a batch was running, and for some milliseconds after it, is the next batch.

This rests on one assumption, which the ledger keeps: posting a transfer again changes nothing. That is why a batch
may be handed back, or run out of its lease, at any moment.
"""

import time
from contextlib import suppress
from typing import Any

import redis
import structlog
from rq.exceptions import StopRequested
from rq.worker import WorkerStatus
from sqlalchemy import Engine

from config import Settings
from jobs.batches import report
from jobs.connections import connect_worker_redis
from jobs.rq.crew import transfers_queue
from jobs.rq.keys import Claim, new_lease, transfer_id_of
from jobs.rq.resident import FIRST_PAUSE_S, ResidentWorker, wait_for
from jobs.settler import Settled, Settler
from models.database.engine import while_waiting
from models.errors import Unavailable
from models.ledger.transfer import Status

# Seconds of Redis's clock: how long the batch of a worker lies still that was killed, or hangs. It is renewed between
# the steps of a batch, and while one of them waits for PostgreSQL, which it does for a bounded time: however slow that
# is, the lease holds.
LEASE_S = 10.0
# While it waits, this many times in a lease.
RENEWALS = 5
# An idle worker waits this long for a job before it looks round (heartbeat, stop, suspension).
IDLE_WAIT_S = 1

_log = structlog.get_logger("worker")


class BatchWorker(ResidentWorker):
    """An RQ worker for the one queue whose jobs' ids are transfers' ids."""

    def __init__(self, connection: redis.Redis, settler: Settler, *, batch_size: int, log_level: str = "INFO") -> None:
        super().__init__(transfers_queue(connection), connection, log_level=log_level)
        self._settler = settler
        self._batch_size = batch_size
        self._next_renewal = 0.0

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """Return a claim and the queue, None when there is nothing and ``timeout`` is None (burst)."""
        idle_since = time.monotonic()
        while True:
            # BUSY before the claim: a SIGTERM from here on waits for the batch instead of orphaning it (rq#2236).
            self._state = WorkerStatus.BUSY
            if self._stop_requested:
                raise StopRequested
            try:
                claim = self.claim(in_turn=timeout is not None)
                if claim.ids:
                    return claim, self.queues[0]
                self._state = WorkerStatus.IDLE
                if timeout is None or (max_idle_time and time.monotonic() - idle_since >= max_idle_time):
                    return None
                self.check_for_suspension(burst=False)
                if claim.wait_s:
                    self._stopping.wait(claim.wait_s)
                else:
                    self._keys.wait_for_jobs(IDLE_WAIT_S)
                self.heartbeat()
            except redis.RedisError as error:
                self._state = WorkerStatus.BUSY
                self._wait_after("redis", type(error).__name__)

    def claim(self, *, in_turn: bool = False) -> Claim:
        """Take what waits, up to a batch, under a new lease; ``in_turn``: or nothing while it gathers."""
        return self._keys.claim(
            worker_key=self.key,
            worker_name=self.name,
            lease=new_lease(),
            limit=self._batch_size,
            lease_s=LEASE_S,
            in_turn=in_turn,
        )

    def execute_job(self, job: Any, queue: Any) -> None:
        """Settle a claim and book what became of it. RQ passes through whatever was dequeued."""
        del queue
        claim: Claim = job
        started_at = time.perf_counter()
        try:
            settled = self._settle(claim)
            self._book(claim, settled)
            self._count(claim, settled, time.perf_counter() - started_at)
        except redis.RedisError as error:
            # What was posted is posted. The lease runs out, and the relay or the next worker books it.
            self._wait_after("redis", type(error).__name__)
        else:
            duration_s = time.perf_counter() - started_at
            report(settled, size=len(claim.ids), duration_s=duration_s)
            if settled.fault is None:
                self._pause_s = FIRST_PAUSE_S
            else:
                self._wait_after("database", settled.fault)
        self._state = WorkerStatus.IDLE

    def _settle(self, claim: Claim) -> Settled:
        ids = [each for each in map(transfer_id_of, claim.ids) if each is not None]
        self._settler.renew = lambda: self._renew(claim)
        self._next_renewal = time.monotonic() + LEASE_S / RENEWALS
        with while_waiting(lambda: self._renew_in_time(claim)):
            return self._reopen_and_settle(claim, ids)

    def _reopen_and_settle(self, claim: Claim, ids: list[int]) -> Settled:
        dead = {int(each): generation for each, generation in claim.dead.items() if transfer_id_of(each)}
        if dead:
            try:
                self._settler.reopen(dead)
            except Unavailable as error:
                return Settled(undone=ids, fault=str(error))
        return self._settler.settle(ids)

    def _renew_in_time(self, claim: Claim) -> None:
        if time.monotonic() >= self._next_renewal:
            self._renew(claim)

    def _renew(self, claim: Claim) -> None:
        try:
            self._keys.renew(claim.lease, claim.ids, lease_s=LEASE_S)
            self.heartbeat()
        except Exception as error:  # noqa: BLE001 - it is called in the middle of a statement, which goes on
            _log.warning("lease not renewed", cause=type(error).__name__)
        self._next_renewal = time.monotonic() + LEASE_S / RENEWALS

    def _book(self, claim: Claim, settled: Settled) -> None:
        """Tell RQ. Outcomes need no fence, for they are true; whatever else is said only while the lease holds."""
        final = [each for each, outcome in settled.outcomes.items() if outcome.status is not Status.FAILED]
        if final:
            self._keys.finish(claim.lease, final)
        if settled.undone:
            self._keys.hand_back(claim.lease, settled.undone)
        due = {each: spent.next_attempt_at for each, spent in settled.spent.items() if spent.next_attempt_at}
        if due or settled.early:
            self._keys.postpone(claim.lease, due | settled.early)
        for transfer_id, spent in settled.spent.items():
            if spent.next_attempt_at is None:
                self._bury(claim, transfer_id, spent.generation, "its attempts ran out; see last_error")
        for transfer_id, generation in settled.dead.items():
            self._bury(claim, transfer_id, generation, "it had failed before; see last_error")
        accounted_for = {*settled.outcomes, *settled.undone, *settled.spent, *settled.early}
        for job_id in claim.ids:
            if transfer_id_of(job_id) not in accounted_for:
                _log.error("job of no transfer", job_id=str(job_id))
                self._bury(claim, job_id, 0, "there is no such transfer")

    def _bury(self, claim: Claim, job_id: int | str, generation: int, error: str) -> None:
        self._keys.bury(job_id, generation=generation, error=error, lease=claim.lease, worker_name=self.name)

    def _count(self, claim: Claim, settled: Settled, duration_s: float) -> None:
        """Keep RQ's own figures of this worker, and let what comes next gather. A full Redis has no room for either."""
        with suppress(redis.RedisError), self.connection.pipeline() as pipeline:
            if len(claim.ids) < self._batch_size:
                self._keys.rest(pipeline, self.name, jobs=len(claim.ids))
            pipeline.hincrby(self.key, "successful_job_count", len(settled.outcomes))
            pipeline.hincrby(self.key, "failed_job_count", len(settled.spent))
            pipeline.hincrbyfloat(self.key, "total_working_time", duration_s)
            pipeline.hset(self.key, "state", WorkerStatus.IDLE.value)
            pipeline.hdel(self.key, "current_job")
            pipeline.execute()


def make(settings: Settings, engine: Engine, settler: Settler) -> BatchWorker:
    """Make it on a client of its own, once Redis answers: RQ's worker talks to it as soon as it is made."""
    del engine
    connection = connect_worker_redis(settings.redis_url.get_secret_value())
    wait_for(connection)
    return BatchWorker(connection, settler, batch_size=settings.batch_size, log_level=settings.log_level)
