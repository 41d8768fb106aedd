"""The queue and who works on it, as RQ knows them."""

import redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.worker_registration import get_keys

from jobs.rq.keys import QUEUE_NAME


def transfers_queue(connection: redis.Redis) -> Queue:
    """Return RQ's queue. JSON, never pickle: whoever can write to Redis must not thereby run code here."""
    return Queue(QUEUE_NAME, connection=connection, serializer=JSONSerializer)


def count_workers(connection: redis.Redis) -> int:
    """Return how many workers are registered and have lately said that they live."""
    names = get_keys(transfers_queue(connection))
    return int(connection.exists(*names)) if names else 0


def are_suspended(connection: redis.Redis) -> bool:
    """Whether ``rq suspend`` holds for all workers."""
    return bool(connection.exists(WORKERS_SUSPENDED))  # RQ's own look is a transaction, which a full Redis refuses
