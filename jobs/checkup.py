"""Looking over a Redis server: whether it answers, is new enough, has room, and what time it believes it is."""

import time
from typing import Any

import redis

from models.checkup import Finding, Level, check_skew
from models.database.faults import first_line

# BLMOVE came with 6.2.
OLDEST_VERSION = (6, 2)
MEMORY_WARN, MEMORY_FAIL = 0.75, 0.95


def check_clock(connection: redis.Redis) -> Finding:
    """Compare its clock with ours."""
    asked_s = time.time()
    seconds, microseconds = connection.time()
    return check_skew("redis clock", seconds + microseconds / 1_000_000 - (asked_s + time.time()) / 2)


def check_version(facts: dict[str, Any]) -> Finding:
    """Look whether it is new enough, by what it says of itself (INFO)."""
    version = str(facts["redis_version"])
    what = f"version {version}"
    if "valkey_version" in facts:
        what += f" (Valkey {facts['valkey_version']})"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        return Finding("redis", Level.FAIL, what, "upgrade to Redis 6.2 or newer")
    return Finding("redis", Level.OK, what)


def check_memory(facts: dict[str, Any]) -> Finding:
    """Look how much of what it may hold it holds (INFO)."""
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory") or 0)
    if not limit:
        return Finding("redis memory", Level.OK, f"{_mebibytes(used)} used, no limit")
    share = used / limit
    level = Level.OK if share < MEMORY_WARN else Level.WARN if share < MEMORY_FAIL else Level.FAIL
    what = f"{_mebibytes(used)} of {_mebibytes(limit)} used"
    return Finding("redis memory", level, what, None if level is Level.OK else "raise maxmemory, or run more workers")


def check_cache(connection: redis.Redis) -> Finding:
    """Look whether a Redis for the cache alone answers: nothing is lost without it."""
    try:
        connection.ping()
    except redis.RedisError as error:
        remedy = "start it, or correct CACHE_REDIS_URL; until then all reads come from PostgreSQL"
        return Finding("cache", Level.WARN, first_line(error), remedy)
    return Finding("cache", Level.OK, "answers")


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
