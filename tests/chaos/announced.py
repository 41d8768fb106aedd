"""What is told on Kafka's topics, to somebody who reads them whenever they are about to be lost, and in the end."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

REQUESTED, RETRY = "wallet.transfers.requested", "wallet.transfers.retry"
EVENTS, DEAD = "wallet.transfers.events", "wallet.transfers.dead"
TOPICS = (REQUESTED, RETRY, EVENTS, DEAD)
# How long a broker that is there may take to answer, or to send all that a topic has.
ANSWER_S = 5.0
# What is announced at once: so much may have been told, and not been noted yet (jobs/kafka/announcer.py).
UNNOTED = 500


class Announced:
    """What was heard on one cluster, by topic and by the id of each event."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.heard: dict[str, dict[int, Any]] = defaultdict(dict)
        self.badly_keyed: list[int] = []
        self._gone: list[range] = []

    def read(self, brokers: str) -> None:
        """Hear all that there is just now.

        Raises:
            KafkaException, TimeoutError: the topics are not there, or no broker answers.
        """
        for topic in (EVENTS, DEAD):
            for record in read_all(brokers, topic):
                event = json.loads(record.value() or b"")
                self.heard[topic][int(event["event_id"])] = event
                if (record.key() or b"").decode() != event["data"]["job_id"]:
                    self.badly_keyed.append(int(event["event_id"]))

    def lose(self, *, read_upto: int, told_upto: int) -> None:
        """Note that the topics have been lost: what was told since they were read may never have been heard.

        Args:
            read_upto: the last event that had been announced before they were read.
            told_upto: the last one that had been noted to be announced when they were gone.
        """
        self._gone.append(range(read_upto + 1, told_upto + UNNOTED + 1))

    def may_be_unheard(self, event_id: int) -> bool:
        """Whether it may have been announced when nobody could hear it any more."""
        return any(event_id in gone for gone in self._gone)


def read_all(brokers: str, topic: str) -> list[Message]:
    """Read a topic from its beginning to its end, as somebody who belongs to no group.

    Raises:
        KafkaException, TimeoutError: the topic is not there, or no broker answers.
    """
    settings = {"bootstrap.servers": brokers, "group.id": "chaos", "enable.auto.commit": False, "log_level": 0}
    with closing(Consumer({**settings, "enable.partition.eof": True})) as reader:
        known = reader.list_topics(topic, timeout=ANSWER_S).topics[topic]
        if known.error is not None:
            raise KafkaException(known.error)
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in known.partitions])
        return list(_read_to_the_end(reader, set(known.partitions)))


def _read_to_the_end(reader: Consumer, partitions: set[int]) -> Iterable[Message]:
    until = time.monotonic() + ANSWER_S * 2
    while partitions:
        if time.monotonic() > until:
            raise TimeoutError
        for message in reader.consume(500, timeout=0.05):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
