"""Redis is full for some seconds: it refuses whatever wants memory."""

import random
import time

import redis

from tests.chaos.stack import Stack

LEAST_S, MOST_S = 1.0, 4.0


def fill_redis(stack: Stack, rng: random.Random) -> bool:
    """Lower the limit below what is used, and put it back; unless Redis is just being restarted."""
    try:
        with redis.Redis.from_url(stack.state()["redis"]["url"], socket_timeout=2) as client:
            limit = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 1)
            time.sleep(rng.uniform(LEAST_S, MOST_S))
            client.config_set("maxmemory", limit)
    except redis.RedisError:
        return False
    return True
