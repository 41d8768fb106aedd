"""Looking over the brokers, the topics and who reads them; and Redis, which keeps cache and limits."""

from collections.abc import Iterator

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from config import Settings
from jobs.checkup import check_clock, check_memory, check_version
from jobs.kafka import topics
from jobs.kafka.clients import ANSWER_S, make_admin
from jobs.kafka.group import find_group
from jobs.transport import TransportAway
from models.checkup import Finding, Level
from models.database.faults import first_line
from models.redis_line.client import connect_redis

REDIS_ANSWER_S = 2.0


def count_workers(settings: Settings) -> int:
    """Return how many members the group has, 0 if that is not to be found out."""
    try:
        return len(find_group(settings).members)
    except TransportAway:
        return 0


def look_over(settings: Settings) -> list[Finding]:
    """Look over all of it."""
    return [*_redis(settings), *_kafka(settings)]


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url.get_secret_value()
    with connect_redis(url, answer_timeout_s=REDIS_ANSWER_S) as connection:
        try:
            facts = connection.info()
            yield from (check_version(facts), check_memory(facts), check_clock(connection))
        except redis.RedisError as error:
            remedy = "start it (make run), or correct REDIS_URL; until then reads are slower, and nobody is throttled"
            yield Finding("redis", Level.FAIL, first_line(error), remedy)


def _kafka(settings: Settings) -> Iterator[Finding]:
    admin = make_admin(settings)
    try:
        known = admin.list_topics(timeout=ANSWER_S)
        yield Finding("kafka", Level.OK, f"{len(known.brokers)} brokers")
        yield _topics(admin)
        yield _workers(settings)
    except (KafkaException, TimeoutError, TransportAway) as error:
        remedy = "start it (make kafka), or correct KAFKA_BROKERS; until then money moves, but jobs wait"
        yield Finding("kafka", Level.FAIL, f"{settings.kafka_brokers}: {first_line(error)}", remedy)


def _topics(admin: AdminClient) -> Finding:
    found = topics.find_topics(admin)
    if missing := sorted(set(topics.ALL) - found.keys()):
        return Finding("topics", Level.FAIL, f"missing: {', '.join(missing)}", "start a worker, which makes them")
    partitions = {found[name][1] for name in topics.WORK}
    if len(partitions) > 1:
        counts = " and ".join(map(str, sorted(partitions)))
        return Finding("topics", Level.WARN, f"{counts} partitions", "give both topics of work as many partitions")
    return Finding("topics", Level.OK, f"{len(found)}, of {partitions.pop()} partitions")


def _workers(settings: Settings) -> Finding:
    count = len(find_group(settings).members)
    if not count:
        return Finding("workers", Level.FAIL, "the group has no members: jobs wait", "start some: python worker.py")
    return Finding("workers", Level.OK, f"{count} in the group")
