"""Looking over Redis and the queue in it: who works, what waits, and whether the server keeps what it is given."""

import time
from datetime import UTC, datetime
from typing import Any

import redis

from jobs.rq.crew import are_suspended, count_workers
from jobs.rq.keys import QUEUE, transfer_id_of
from models.checkup import Finding, Level, check_skew
from models.database.faults import first_line
from models.snowflake.layout import instant_of

# BLMOVE came with 6.2.
OLDEST_VERSION = (6, 2)
MEMORY_WARN, MEMORY_FAIL = 0.75, 0.95
QUEUE_WARN_S = 60.0


def check_redis(connection: redis.Redis) -> list[Finding]:
    """Look over the server and the queue. A server that cannot be reached is a finding like others."""
    try:
        asked_s = time.time()
        seconds, microseconds = connection.time()
        skew_s = seconds + microseconds / 1_000_000 - (asked_s + time.time()) / 2
        facts = connection.info()
        return [
            _version(facts),
            *_keeping(facts),
            _memory(facts),
            check_skew("redis clock", skew_s),
            _workers(connection),
            _queue(connection),
        ]
    except redis.RedisError as error:
        remedy = "start it (make run), or correct REDIS_URL; until then money moves, but jobs wait"
        return [Finding("redis", Level.FAIL, first_line(error), remedy)]


def check_cache(connection: redis.Redis) -> Finding:
    """Look whether a Redis for the cache alone answers: nothing is lost without it."""
    try:
        connection.ping()
    except redis.RedisError as error:
        remedy = "start it, or correct CACHE_REDIS_URL; until then all reads come from PostgreSQL"
        return Finding("cache", Level.WARN, first_line(error), remedy)
    return Finding("cache", Level.OK, "answers")


def _version(facts: dict[str, Any]) -> Finding:
    version = str(facts["redis_version"])
    what = f"version {version}"
    if "valkey_version" in facts:
        what += f" (Valkey {facts['valkey_version']})"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        return Finding("redis", Level.FAIL, what, "upgrade to Redis 6.2 or newer")
    return Finding("redis", Level.OK, what)


def _keeping(facts: dict[str, Any]) -> list[Finding]:
    """Whether the server keeps the queue: PostgreSQL can rebuild it, which takes time and attention."""
    policy = str(facts.get("maxmemory_policy", "unknown"))
    evicts = policy != "noeviction"
    remedy = "CONFIG SET maxmemory-policy noeviction: a queue that forgets is worse than one that refuses"
    findings = [
        Finding("redis eviction", Level.FAIL if evicts else Level.OK, policy, remedy if evicts else None),
    ]
    if not facts.get("aof_enabled"):
        remedy = "CONFIG SET appendonly yes: without it a restart empties the queue, and the relay has to refill it"
        findings.append(Finding("redis append-only file", Level.WARN, "off", remedy))
    elif facts.get("aof_last_write_status", "ok") != "ok":
        remedy = "see the server's log; most often its disk is full"
        findings.append(Finding("redis append-only file", Level.FAIL, "cannot be written", remedy))
    else:
        findings.append(Finding("redis append-only file", Level.OK, "on"))
    return findings


def _memory(facts: dict[str, Any]) -> Finding:
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory") or 0)
    if not limit:
        return Finding("redis memory", Level.OK, f"{_mebibytes(used)} used, no limit")
    share = used / limit
    level = Level.OK if share < MEMORY_WARN else Level.WARN if share < MEMORY_FAIL else Level.FAIL
    what = f"{_mebibytes(used)} of {_mebibytes(limit)} used"
    return Finding("redis memory", level, what, None if level is Level.OK else "raise maxmemory, or run more workers")


def _workers(connection: redis.Redis) -> Finding:
    count = count_workers(connection)
    if not count:
        return Finding("workers", Level.FAIL, "none is registered: jobs wait", "start some: python worker.py")
    if are_suspended(connection):
        return Finding("workers", Level.FAIL, f"{count} registered, all suspended", "rq resume --url $REDIS_URL")
    return Finding("workers", Level.OK, f"{count} registered")


def _queue(connection: redis.Redis) -> Finding:
    length, first = int(connection.llen(QUEUE)), connection.lindex(QUEUE, 0)
    if not length:
        return Finding("queue", Level.OK, "empty")
    # A job's id is its transfer's, and tells when that was ordered.
    transfer_id = transfer_id_of(first.decode(errors="replace")) if isinstance(first, bytes) else None
    age_s = (datetime.now(UTC) - instant_of(transfer_id)).total_seconds() if transfer_id else 0.0
    what = f"{length} jobs, the first is {max(age_s, 0):.0f} s old"
    if age_s < QUEUE_WARN_S:
        return Finding("queue", Level.OK, what)
    return Finding("queue", Level.WARN, what, "run more workers, and see what they log")


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
