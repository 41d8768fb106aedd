"""How much a Redis server holds, and may hold."""

from typing import NamedTuple

import redis


class Memory(NamedTuple):
    """What Redis holds, and what it may hold; 0: there is no limit."""

    used_bytes: int
    limit_bytes: int


def find_memory(connection: redis.Redis) -> Memory:
    """Ask a server for both.

    Raises:
        redis.RedisError: it does not answer.
    """
    facts = connection.info("memory")
    return Memory(int(facts["used_memory"]), int(facts.get("maxmemory") or 0))
