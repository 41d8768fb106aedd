"""An RQ worker that stays, whatever Redis does: registered, heard of, suspended and stopped as RQ has it.

What RQ's own would die of is done otherwise: a Redis that hangs, is full, or was emptied. What it does with what it
takes from a queue is for those who derive from it.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import redis
import structlog
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, unregister

from jobs.rq.crew import are_suspended
from jobs.rq.keys import RqKeys
from models.database.faults import first_line
from observe import background

# Between two heartbeats of a busy one: every batch would be thousands a minute.
HEARTBEAT_S = 1.0
# How long RQ believes in a worker that says nothing.
WORKER_TTL_S = 30
# After a fault of the database or of Redis: short at first, because most are over at once.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

_log = structlog.get_logger("worker")


class ResidentWorker(SimpleWorker):
    """A worker of one queue."""

    def __init__(self, queue: Queue, connection: redis.Redis, *, log_level: str = "INFO") -> None:
        super().__init__([queue], connection=connection, serializer=JSONSerializer, worker_ttl=WORKER_TTL_S)
        self._keys = RqKeys(connection)
        self._log_level = log_level
        self._stopping = threading.Event()
        self._pause_s = FIRST_PAUSE_S
        self._next_heartbeat = self._next_look = 0.0

    def run(self) -> None:
        """Work until SIGTERM; a second one does not wait for what is running."""
        self.work(logging_level=self._log_level)

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

    def _wait_after(self, what: str, cause: str) -> None:
        """Pause after a fault, longer each time in a row, and no longer than until told to stop."""
        _log.warning("waiting", on=what, cause=cause, pause_s=self._pause_s)
        self._stopping.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def wait_for(connection: redis.Redis) -> None:
    """Wait until Redis answers."""
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
