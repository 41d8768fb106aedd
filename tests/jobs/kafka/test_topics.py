"""The topics: made once, whoever makes them, and a key goes where any client would put it."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
from confluent_kafka import Producer

from config import Settings
from jobs.kafka import topics
from jobs.kafka.clients import make_admin
from jobs.kafka.topics import ALL, EVENTS, REQUESTED, key_of, partition_of
from jobs.transport import TransportAway
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.jobs.kafka.conftest import read_all
from tests.kafka_broker import empty_topics
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("kafka")


def test_a_key_is_on_the_partition_on_which_kafkas_own_client_puts_it(kafka_settings: Settings) -> None:
    keys = [key_of(10**n + n) for n in range(19)] + [b"", b"a", b"\xff" * 7]
    producer = Producer({"bootstrap.servers": kafka_settings.kafka_brokers, "partitioner": "murmur2_random"})
    for key in keys[:19]:
        producer.produce(REQUESTED, value=b"{}", key=key)
    assert producer.flush(10) == 0
    for message in read_all(kafka_settings, REQUESTED, 19):
        assert message.partition() == partition_of(message.key() or b"", 4), message.key()


def test_a_key_of_every_length_has_the_hash_that_javas_client_gives_it() -> None:
    """Values of org.apache.kafka.common.utils.UtilsTest."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
             b"a-little-bit-longer-string": -1486304829, b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
             b"abc": 479470107}  # fmt: skip
    for key, value in known.items():
        assert partition_of(key, 0x7FFFFFFF) == (value & 0x7FFFFFFF) % 0x7FFFFFFF


def test_topics_are_made_once_by_many_who_race(settings: Settings, kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
    mine = settings.model_copy(update={"kafka_brokers": kafka_broker.url})
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: topics.make_topics(make_admin(mine), partitions=3), range(4)))
    assert sorted(chain.from_iterable(made)) == sorted(ALL)  # each by one of them
    assert topics.make_topics(make_admin(mine), partitions=5) == []
    admin = make_admin(mine)
    assert wait_for(lambda: len(topics.find_topics(admin)) == len(ALL), PATIENCE_S)
    found = topics.find_topics(admin)
    assert {name: count for name, (_, count) in found.items()} == dict.fromkeys(ALL, 3) | {topics.DEAD: 1}
    assert found[EVENTS][0] != found[REQUESTED][0]


def test_without_a_broker_it_is_said_within_seconds(settings: Settings) -> None:
    nowhere = make_admin(settings.model_copy(update={"kafka_brokers": "127.0.0.1:1"}))
    with pytest.raises(TransportAway):
        topics.make_topics(nowhere, partitions=1)
    with pytest.raises(TransportAway):
        topics.find_topics(nowhere)
