"""The topics: what they are called, how they are made, and on which partition a payer's transfers are."""

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from jobs.kafka.clients import ANSWER_S
from jobs.transport import TransportAway

# Accepted transfers, by payer, in the order in which they were answered.
REQUESTED = "wallet.transfers.requested"
# Those that are due again, or that had been lost. The relay alone writes here.
RETRY = "wallet.transfers.retry"
# Every outcome, by transfer.
EVENTS = "wallet.transfers.events"
# Those that became dead letters.
DEAD = "wallet.transfers.dead"
WORK = (REQUESTED, RETRY)
ALL = (*WORK, EVENTS, DEAD)

# Copies of a record, where there are as many brokers; and how many must have it before it counts as sent.
COPIES, FEWEST_COPIES = 3, 2
WEEK_MS = 7 * 86_400_000


def make_topics(admin: AdminClient, *, partitions: int) -> list[str]:
    """Make the topics that are not there, and return which were made. Safe to repeat, and to race.

    The broker that is asked may not have heard yet of a topic that somebody has just made.

    Raises:
        TransportAway: the brokers do not answer, or will not.
    """
    try:
        known = admin.list_topics(timeout=ANSWER_S)
        missing = [name for name in ALL if name not in known.topics]
        if not missing:
            return []
        copies = min(COPIES, len(known.brokers))
        asked = admin.create_topics([_new(name, partitions, copies) for name in missing], request_timeout=ANSWER_S)
        made = []
        for name, future in asked.items():
            try:
                future.result(ANSWER_S * 2)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            else:
                made.append(name)
    except (KafkaException, TimeoutError) as error:
        raise TransportAway(_words(error)) from error
    return made


def _new(name: str, partitions: int, copies: int) -> NewTopic:
    settings = {
        "min.insync.replicas": str(min(FEWEST_COPIES, copies)),
        # What waits for longer the relay sends again.
        "retention.ms": str(WEEK_MS),
    }
    return NewTopic(name, partitions if name in {*WORK, EVENTS} else 1, copies, config=settings)


def find_topics(admin: AdminClient) -> Mapping[str, tuple[str, int]]:
    """Return the ids of those topics that are there, which change when one is made anew, and their partitions.

    Raises:
        TransportAway: the brokers do not answer.
    """
    found = {}
    try:
        asked = admin.describe_topics(TopicCollection(list(ALL)), request_timeout=ANSWER_S)
        for name, future in asked.items():
            try:
                told: Any = future.result(ANSWER_S * 2)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
            else:
                found[name] = (str(told.topic_id), len(told.partitions))
    except (KafkaException, TimeoutError) as error:
        raise TransportAway(_words(error)) from error
    return found


def key_of(user_id: int | None) -> bytes:
    """Return the key of a payer's records."""
    return b"%d" % (user_id or 0)


def partition_of(key: bytes, partitions: int) -> int:
    """Return where a record with a key is: as Kafka's own clients in Java have it (Utils.murmur2)."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Hash a key. Source: org.apache.kafka.common.utils.Utils.murmur2, in unsigned arithmetic."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    whole = len(data) & ~3
    value = 0x9747B28C ^ len(data)
    for at in range(0, whole, 4):
        part = int.from_bytes(data[at : at + 4], "little") * factor & mask
        part = (part ^ part >> 24) * factor & mask
        value = (value * factor & mask) ^ part
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


def place_of(topic: str, partition: int) -> str:
    """Return what a partition is called in the books."""
    return f"{topic}/{partition}"


def _words(error: BaseException) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else type(error).__name__
