"""Who works on the queue, as RQ knows it."""

import redis
from rq.suspension import is_suspended
from rq.worker_registration import get_keys

from jobs.rq.queue import transfers_queue


def count_workers(connection: redis.Redis) -> int:
    """Return how many workers are registered and have lately said that they live."""
    names = get_keys(transfers_queue(connection))
    return int(connection.exists(*names)) if names else 0


def are_suspended(connection: redis.Redis) -> bool:
    """Whether ``rq suspend`` holds for all workers."""
    return bool(is_suspended(connection))
