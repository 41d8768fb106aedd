"""The queue ``webhooks``: RQ's, with a job for each attempt that is due.

What is due, who sends it and how it went stands in PostgreSQL (models/webhooks/): a job says which delivery, and which
claim of it. RQ's own retries and its failed registry are not used, since they are lost with Redis; a job that has run
is *finished* to RQ, however the receiver has answered.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import redis
from rq import Queue
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from jobs.webhooks.feeder import Away
from models.ledger.transfer import MAX_ID
from models.webhooks.deliveries import CLAIMED_S, Held

QUEUE_NAME = "webhooks"
JOB_FUNCTION = "jobs.webhooks.job.run"
# Seconds that a job stays readable in Redis when it has run; and while it runs, if nobody ends it.
RESULT_TTL_S = 60
STARTED_TTL_S = round(CLAIMED_S) + 30
# Of a stock worker that runs one.
JOB_TIMEOUT_S = 60

_QUEUE = f"rq:queue:{QUEUE_NAME}"
_STARTED = f"rq:wip:{QUEUE_NAME}"
_FINISHED = f"rq:finished:{QUEUE_NAME}"
_JOB_ID = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,18})-([0-9]{1,9})")
_LUA = Path(__file__).parent / "lua"


def webhooks_queue(connection: redis.Redis) -> Queue:
    """Return RQ's queue. JSON, never pickle."""
    return Queue(QUEUE_NAME, connection=connection, serializer=JSONSerializer)


class WebhookQueue:
    """The steps of a job's life."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._queue = webhooks_queue(connection)
        self._take = connection.register_script((_LUA / "take_webhooks.lua").read_text())
        self._finish = connection.register_script((_LUA / "finish_webhook.lua").read_text())

    def put_on(self, held: Sequence[Held]) -> None:
        """Put a job on the queue for each, unless it stands there.

        Raises:
            Away: Redis is, or has no room.
        """
        try:
            with self._connection.pipeline(transaction=False) as pipeline:
                for each in held:
                    pipeline.lpos(_QUEUE, _job_id(each))
                places = pipeline.execute()
            new = [each for each, place in zip(held, places, strict=True) if place is None]
            if new:
                self._queue.enqueue_many([self._job(each) for each in new])
        except redis.RedisError as error:
            raise Away from error

    def take(self, limit: int, *, worker_name: str) -> list[Held]:
        """Take up to so many. What is no job of ours is dropped.

        Raises:
            redis.RedisError: Redis is away.
        """
        ids = self._take(keys=[_QUEUE, _STARTED], args=[limit, _now(), STARTED_TTL_S, worker_name])
        return [held for each in ids if (held := _read(each.decode(errors="replace"))) is not None]

    def finish(self, held: Held, *, worker_name: str) -> None:
        """Show a job as finished.

        Raises:
            redis.RedisError: Redis is away.
        """
        job_id = _job_id(held)
        self._finish(keys=[_STARTED, _FINISHED, f"rq:job:{job_id}"], args=[_now(), RESULT_TTL_S, worker_name, job_id])

    def wait_for_jobs(self, timeout_s: int) -> None:
        """Return when a job waits, or when the time is over. Takes nothing.

        Raises:
            redis.RedisError: Redis is away.
        """
        self._connection.blmove(_QUEUE, _QUEUE, timeout_s, "LEFT", "LEFT")

    @staticmethod
    def _job(held: Held) -> EnqueueData:
        return Queue.prepare_data(
            JOB_FUNCTION,
            args=[str(held.webhook_id), str(held.event_id), held.claims],
            job_id=_job_id(held),
            timeout=JOB_TIMEOUT_S,
            result_ttl=RESULT_TTL_S,
            description=f"webhook {held.webhook_id}, event {held.event_id}",
        )


def _job_id(held: Held) -> str:
    return "-".join(map(str, held))


def _read(job_id: str) -> Held | None:
    """Return what a job is about, None if there can be none of this id: anything may stand on a queue."""
    found = _JOB_ID.fullmatch(job_id)
    if found is None:
        return None
    held = Held(*map(int, found.groups()))
    return held if max(held.webhook_id, held.event_id) <= MAX_ID and held.claims < 1 << 31 else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
