"""Redis loses all it has."""

import random

import redis

from tests.chaos.stack import Stack


def empty_redis(stack: Stack, _rng: random.Random) -> bool:
    """Empty Redis, unless it is just being restarted."""
    try:
        with redis.Redis.from_url(stack.state()["redis"]["url"], socket_timeout=2) as client:
            client.flushall()
    except redis.RedisError:
        return False
    return True
