"""The batching RQ worker: claims many waiting jobs at once, posts them as one batch, books them in one step.

It is an RQ worker in all that is seen from outside (registration, heartbeats, suspension, warm shutdown, commands),
and keeps RQ's own loop; what is replaced is how work is taken and how it is run. A lone job is taken at once, alone;
whatever has gathered while a batch was running, and for some milliseconds after it, is the next batch.

This rests on one assumption, which the ledger keeps: posting a transfer again changes nothing. That is why a batch
may be handed back, or run out of its lease, at any moment.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import redis
import structlog
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, unregister
from sqlalchemy import Engine

from config import Settings
from jobs.batches import report
from jobs.connections import connect_worker_redis
from jobs.rq.crew import are_suspended, transfers_queue
from jobs.rq.keys import Claim, RqKeys, new_lease, transfer_id_of
from jobs.settler import Settled, Settler
from models.database.engine import while_waiting
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger.transfer import Status
from observe import background

# Seconds of Redis's clock: how long the batch of a worker lies still that was killed, or hangs. It is renewed between
# the steps of a batch, and while one of them waits for PostgreSQL, which it does for a bounded time: however slow that
# is, the lease holds.
LEASE_S = 10.0
# While it waits, this many times in a lease.
RENEWALS = 5
# An idle worker waits this long for a job before it looks round (heartbeat, stop, suspension).
IDLE_WAIT_S = 1
# Between two heartbeats of a busy one: every batch would be thousands a minute.
HEARTBEAT_S = 1.0
# How long RQ believes in a worker that says nothing.
WORKER_TTL_S = 30
# After a fault of the database or of Redis: short at first, because most are over at once.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

_log = structlog.get_logger("worker")


class BatchWorker(SimpleWorker):
    """An RQ worker for the one queue whose jobs' ids are transfers' ids."""

    def __init__(self, connection: redis.Redis, settler: Settler, *, batch_size: int, log_level: str = "INFO") -> None:
        super().__init__(
            [transfers_queue(connection)], connection=connection, serializer=JSONSerializer, worker_ttl=WORKER_TTL_S
        )
        self._keys = RqKeys(connection)
        self._settler = settler
        self._batch_size = batch_size
        self._log_level = log_level
        self._stopping = threading.Event()
        self._pause_s = FIRST_PAUSE_S
        self._next_heartbeat = self._next_look = self._next_renewal = 0.0

    def run(self) -> None:
        """Work until SIGTERM; a second one does not wait for the batch that is running."""
        self.work(logging_level=self._log_level)

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

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell RQ that this worker lives, whether Redis knew it already or not, and has memory for it or not.

        A Redis that is away is no reason to end here: the next claim finds it out, and waits.
        """
        del pipeline
        if time.monotonic() >= self._next_heartbeat:
            self._show(timeout)

    def _show(self, timeout: int | None = None) -> None:
        self._next_heartbeat = time.monotonic() + HEARTBEAT_S
        self.last_heartbeat = now()
        with suppress(redis.RedisError):
            self._keys.register(
                self.key,
                self.serialize() | {"state": self._state},
                groups=[self.redis_workers_keys, *(WORKERS_BY_QUEUE_KEY % name for name in self.queue_names())],
                ttl_s=timeout or self.worker_ttl + 60,
            )

    def register_birth(self) -> None:
        """Register; RQ's own way would end here if Redis is full."""
        self.birth_date = now()
        self._show()

    def register_death(self) -> None:
        """Sign off. Step by step, for a full Redis refuses the last one."""
        with self.connection.pipeline(transaction=False) as pipeline:
            unregister(self, pipeline)
            pipeline.expire(self.key, 60)
            pipeline.delete(self.executions_key)
            pipeline.hset(self.key, "death", utcformat(now()))
            pipeline.execute(raise_on_error=False)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Note it; the next heartbeat shows it."""
        del pipeline
        self._state = state

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - RQ calls it so
        """Look for ``rq suspend`` now and then, and wait while it holds."""
        if time.monotonic() < self._next_look:
            return
        state = self._state
        while self._is_suspended():
            if burst:
                raise StopRequested
            if self._state != WorkerStatus.SUSPENDED:
                _log.info("suspended until it is resumed (rq resume)")
                self._state = WorkerStatus.SUSPENDED
            self.heartbeat()
            if self._stopping.wait(HEARTBEAT_S):
                break
        self._state = state

    def _is_suspended(self) -> bool:
        self._next_look = time.monotonic() + HEARTBEAT_S
        try:
            return are_suspended(self.connection)
        except redis.RedisError:
            return False

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: RQ's clean-up of its registries would fail what the relay puts back."""
        return False

    def handle_warm_shutdown_request(self) -> None:
        """Let whoever waits after a fault stop waiting."""
        _log.info("told to stop, the batch goes on to its end")
        self._stopping.set()

    def set_shutdown_requested_date(self) -> None:
        """Show that this worker was told to stop. Called by a signal, in the middle of anything: raises nothing."""
        with suppress(redis.RedisError):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Sign off, if there is a Redis to sign off from."""
        with suppress(redis.RedisError):
            super().teardown()  # type: ignore[no-untyped-call]

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Go on listening to commands, whatever has come between: RQ's own way ends at a Redis that hangs."""
        del pubsub, pubsub_thread
        if not isinstance(exc, redis.RedisError):
            background.report("rq_commands", exc)
        self._stopping.wait(LONGEST_PAUSE_S)

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Keep the client's patience: RQ would raise it far beyond a lease."""
        return connection

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

    def _wait_after(self, what: str, cause: str) -> None:
        """Pause after a fault, longer each time in a row, and no longer than until told to stop."""
        _log.warning("waiting", on=what, cause=cause, pause_s=self._pause_s)
        self._stopping.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def make(settings: Settings, engine: Engine, settler: Settler) -> BatchWorker:
    """Make it on a client of its own, once Redis answers: RQ's worker talks to it as soon as it is made."""
    del engine
    connection = connect_worker_redis(settings.redis_url.get_secret_value())
    _wait_for(connection)
    return BatchWorker(connection, settler, batch_size=settings.batch_size, log_level=settings.log_level)


def _wait_for(connection: redis.Redis) -> None:
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            connection.ping()
        except redis.RedisError as error:
            # One that answers no (a password, a database) is no reason to end, for it may be mended there; but no time
            # mends it.
            level = "error" if isinstance(error, redis.AuthenticationError | redis.ResponseError) else "warning"
            getattr(_log, level)("waiting", on="REDIS_URL", cause=first_line(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        else:
            return
