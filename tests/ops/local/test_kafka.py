"""Brokers on this machine: they start, keep what they have confirmed, and say in one line what they lack."""

from collections.abc import Mapping
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ops.local.kafka.server import KafkaServer
from tests.kafka_broker import empty_topics, make_topic

pytestmark = pytest.mark.xdist_group("kafka")
PASSWORD = 'of "quotes", a \\ and ü'


def send(settings: Mapping[str, str], topic: str, *values: str) -> None:
    """Have all of them confirmed, or fail."""
    failures: list[object] = []
    producer = Producer({**client(settings), "enable.idempotence": True, "message.timeout.ms": 30_000})

    def note(error: object, _message: object) -> None:
        if error:
            failures.append(error)

    for value in values:
        producer.produce(topic, value, on_delivery=note)
    assert producer.flush(30) == 0
    assert failures == []


def read(settings: Mapping[str, str], topic: str, count: int) -> list[str]:
    """The first records of a topic with one partition."""
    with closing(Consumer({**client(settings), "group.id": "tests", "enable.auto.commit": False})) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        records = consumer.consume(count, timeout=30)
        return [(record.value() or b"").decode() for record in records if record.error() is None]


def client(settings: Mapping[str, str]) -> dict[str, str | int | bool]:
    """librdkafka's settings, of ours."""
    names = {"kafka_brokers": "bootstrap.servers", "kafka_ssl_ca": "ssl.ca.location"}
    own = {names.get(name, name.removeprefix("kafka_").replace("_", ".")): value for name, value in settings.items()}
    return {**own, "log_level": 0, "reconnect.backoff.max.ms": 250}


def test_a_broker_is_found_and_hands_on_what_it_was_sent(kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
    make_topic(kafka_broker, "plain")
    send(kafka_broker.settings, "plain", "one", "two")
    assert read(kafka_broker.settings, "plain", 2) == ["one", "two"]
    assert kafka_broker.url == f"127.0.0.1:{kafka_broker.port}"
