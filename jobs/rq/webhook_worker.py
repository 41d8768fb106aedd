"""The worker of the queue ``webhooks``: RQ's, with many jobs in hand, each in a thread that waits for a receiver.

A process of its own: what its threads cost, and how long they wait, is nothing to those who settle transfers. How many
jobs of one endpoint there are at a time is bounded by who puts them on the queue (models/webhooks/deliveries.py).
"""

import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import redis
import structlog
from rq.exceptions import StopRequested
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry

from jobs.rq.resident import FIRST_PAUSE_S, ResidentWorker
from jobs.rq.webhook_queue import WebhookQueue, webhooks_queue
from jobs.webhooks.sender import Letter, Sender
from models.database.faults import first_line
from models.errors import Unavailable
from models.webhooks.deliveries import Held
from observe import background

# Attempts at a time, each in a thread that is made when the first of them needs it: more than the feeder lets there be
# of (ALL_HELD, or one for each endpoint), so that who hangs never has all of them.
SEATS = 128
# An idle worker waits this long for a job before it looks round; and so long for a seat.
IDLE_WAIT_S = 1

_log = structlog.get_logger("webhooks")


class WebhookWorker(ResidentWorker):
    """Takes jobs, claims their deliveries and hands them to threads."""

    def __init__(self, connection: redis.Redis, sender: Sender, *, log_level: str = "INFO") -> None:
        super().__init__(webhooks_queue(connection), connection, log_level=log_level)
        self._webhooks = WebhookQueue(connection)
        self._sender = sender
        self._given: SimpleQueue[Letter] = SimpleQueue()
        self._changed = threading.Condition()
        self._in_hand = self._seats = 0

    def run(self) -> None:
        """Work until SIGTERM, and return at once; see :meth:`finish_in_hand`."""
        with suppress(redis.RedisError):
            clean_worker_registry(self.queues[0])
        super().run()

    def finish_in_hand(self, within_s: float) -> bool:
        """Wait for the attempts that are being made; return whether all have ended. Others are made again elsewhere."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_hand, within_s)

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """Return jobs and their queue, None when there is nothing and ``timeout`` is None (burst)."""
        del max_idle_time
        while True:
            self._state = WorkerStatus.BUSY
            if self._stop_requested:
                raise StopRequested
            self._sender.rest()
            try:
                if room := self._wait_for_seats():
                    if held := self._webhooks.take(room, worker_name=self.name):
                        return held, self.queues[0]
                    self._state = WorkerStatus.IDLE
                    if timeout is None:
                        return None
                    self.check_for_suspension(burst=False)
                    self._webhooks.wait_for_jobs(IDLE_WAIT_S)
                self.heartbeat()
            except redis.RedisError as error:
                self._state = WorkerStatus.BUSY
                self._wait_after("redis", type(error).__name__)

    def execute_job(self, job: Any, queue: Any) -> None:
        """Claim what was taken, and have it sent. What cannot be claimed now is put on the queue again in a moment."""
        del queue
        held: list[Held] = job
        try:
            claimed = self._sender.claim(held)
        except Unavailable as error:
            self._wait_after("database", first_line(error))
            return
        finally:
            self._state = WorkerStatus.IDLE
        self._pause_s = FIRST_PAUSE_S
        with self._changed:
            self._in_hand += len(claimed)
        for _ in range(self._seats, min(self._in_hand, SEATS)):
            self._seats += background.start("webhooks", self._sit) is not None
        for each in claimed:
            self._given.put(each)

    def _wait_for_seats(self) -> int:
        """Return how many are free, 0 if none has become so in a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_hand < SEATS, IDLE_WAIT_S)
            return SEATS - self._in_hand

    def _sit(self) -> None:
        while True:
            letter = self._given.get()
            try:
                self._sender.send(letter)
            except Unavailable as error:
                _log.warning("attempt not written down, it is made again", cause=first_line(error))
            finally:
                with self._changed:
                    self._in_hand -= 1
                    self._changed.notify_all()
            claimed = letter.claimed
            with suppress(redis.RedisError):  # what stands there goes by itself
                self._webhooks.finish(
                    Held(claimed.webhook_id, claimed.event_id, claimed.claims - 1), worker_name=self.name
                )
