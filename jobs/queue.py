"""RQ's ``transfers`` queue: putting accepted transfers on it.

PostgreSQL has the transfer before it is enqueued, so nothing here can lose one, and nothing here raises: a transfer
that did not get onto the queue is found by the relay.
"""

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

QUEUE_NAME = "transfers"
JOB_FUNCTION = "jobs.transfers.run"
# What rq-dashboard shows. The arguments would only repeat the id, in every job's memory.
JOB_DESCRIPTION = "transfer"
# Seconds that a finished job stays readable in Redis. PostgreSQL has its outcome for ever.
RESULT_TTL_S = 60
# A dead letter stays until somebody requeues it.
FAILURE_TTL_S = -1
# RQ's own bound on a job; the database's are much tighter.
JOB_TIMEOUT_S = 60

# On the request path a Redis that does not answer may cost this much once, and no retry.
CONNECT_TIMEOUT_S = 0.3
ANSWER_TIMEOUT_S = 0.3

_log = structlog.get_logger("queue")


def connect_redis(url: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> redis.Redis:
    """Make a client for a request path: short timeouts, no retries. Nothing is connected yet."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=answer_timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


def transfers_queue(connection: redis.Redis) -> Queue:
    """Return RQ's queue. JSON, never pickle: whoever can write to Redis must not thereby run code here."""
    return Queue(QUEUE_NAME, connection=connection, serializer=JSONSerializer)


class TransferQueue:
    """The way onto the queue, from a request."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._queue = transfers_queue(connection)

    def enqueue(self, transfer_id: int, *, trace: str | None) -> bool:
        """Put a recorded transfer on the queue; a transfer that is on it already is left there.

        Args:
            transfer_id: becomes the job's id.
            trace: the W3C traceparent that the job carries on.

        Returns:
            Whether it is on the queue now. False is no error: the relay will find the transfer.
        """
        try:
            self._queue.enqueue_call(
                JOB_FUNCTION,
                args=(str(transfer_id),),
                job_id=str(transfer_id),
                unique=True,
                description=JOB_DESCRIPTION,
                timeout=JOB_TIMEOUT_S,
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
                meta={"traceparent": trace} if trace else None,
            )
        except DuplicateJobError:
            return True
        except redis.RedisError as error:
            _log.warning("not enqueued", job_id=str(transfer_id), error=type(error).__name__)
            return False
        return True

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._connection.ping())
        except redis.RedisError:
            return False
