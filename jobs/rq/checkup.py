"""Looking over Redis and the queue in it: who works, what waits, and whether the server keeps what it is given."""

from datetime import UTC, datetime
from typing import Any

import redis

from config import Settings
from jobs.checkup import check_clock, check_memory, check_version
from jobs.rq import crew
from jobs.rq.crew import are_suspended
from jobs.rq.keys import QUEUE, transfer_id_of
from models.checkup import Finding, Level
from models.database.faults import first_line
from models.redis_line.client import connect_redis
from models.snowflake.layout import instant_of

# Nobody waits for a command as for a request: a server that is slow is not one that is down.
ANSWER_TIMEOUT_S = 2.0
QUEUE_WARN_S = 60.0


def count_workers(settings: Settings) -> int:
    """Return how many workers are registered, 0 if that is not to be found out."""
    with _connect(settings) as connection:
        try:
            return crew.count_workers(connection)
        except redis.RedisError:
            return 0


def look_over(settings: Settings) -> list[Finding]:
    """Look over the server and the queue."""
    with _connect(settings) as connection:
        return check_redis(connection)


def _connect(settings: Settings) -> redis.Redis:
    return connect_redis(settings.redis_url.get_secret_value(), answer_timeout_s=ANSWER_TIMEOUT_S)


def check_redis(connection: redis.Redis) -> list[Finding]:
    """Look over the server and the queue. A server that cannot be reached is a finding like others."""
    try:
        facts = connection.info()
        return [
            check_version(facts),
            *_keeping(facts),
            check_memory(facts),
            check_clock(connection),
            _workers(connection),
            _queue(connection),
        ]
    except redis.RedisError as error:
        remedy = "start it (make run), or correct REDIS_URL; until then money moves, but jobs wait"
        return [Finding("redis", Level.FAIL, first_line(error), remedy)]


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


def _workers(connection: redis.Redis) -> Finding:
    count = crew.count_workers(connection)
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
