"""A producer that does not deliver is replaced, and what it has delivered is known."""

import signal

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic

from config import Settings
from jobs.kafka.clients import make_admin, make_producer
from jobs.kafka.sending import RENEW_S, Sender
from ops.local.kafka.cluster import KafkaCluster
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.kafka_broker import ANSWER_S, admin_of, empty_topics, make_topic
from tests.patience import PATIENCE_S

TOPIC = "sent"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def on(settings: Settings, brokers: str) -> Settings:
    return settings.model_copy(update={"kafka_brokers": brokers})


@pytest.mark.xdist_group("kafka")
def test_one_that_fails_is_replaced_once_it_is_old_enough_and_no_other(
    settings: Settings, kafka_broker: KafkaServer
) -> None:
    empty_topics(kafka_broker)
    make_topic(kafka_broker, TOPIC)
    brokers, made, clock = ["127.0.0.1:1", kafka_broker.url], [0], Clock()

    def make() -> object:
        made[0] += 1
        given = {"message.timeout.ms": 200, "linger.ms": 0} if made[0] == 1 else {}
        return make_producer(on(settings, brokers[min(made[0], 2) - 1]), **given)

    sender = Sender(make, listens=False, clock=clock)  # type: ignore[arg-type]
    assert sender.send(TOPIC, b"1", b"{}")
    assert not sender.flush(ANSWER_S)
    clock.now = RENEW_S
    assert sender.send(TOPIC, b"1", b"{}")
    assert made == [1]
    assert not sender.flush(ANSWER_S)
    sender.send(TOPIC, b"1", b"{}")
    clock.now += 1
    sender.send(TOPIC, b"1", b"{}")
    assert made == [2]
    assert not sender.flush(ANSWER_S)  # what the first one had is not known to have arrived
    clock.now += 2 * RENEW_S
    sender.send(TOPIC, b"1", b"{}")
    assert sender.flush(ANSWER_S)
    assert made == [2]


@pytest.mark.long
@pytest.mark.xdist_group("kafka-cluster")
def test_new_topics_with_other_leaders_are_written_to(settings: Settings, kafka_cluster: KafkaCluster) -> None:
    empty_topics(kafka_cluster)
    admin = admin_of(kafka_cluster)

    def make(*replicas: int) -> None:
        def is_made() -> bool:
            new = NewTopic(TOPIC, num_partitions=1, replica_assignment=[[*replicas]])
            try:
                admin.create_topics([new], request_timeout=ANSWER_S)[TOPIC].result(ANSWER_S)
            except KafkaException:  # the last one is not quite gone
                return False
            return True

        assert wait_for(is_made, PATIENCE_S)

    clock = Clock()
    sender = Sender(lambda: make_producer(on(settings, kafka_cluster.url)), listens=False, clock=clock)

    def has_arrived() -> bool:
        clock.now += RENEW_S + 1
        return sender.send(TOPIC, b"1", b"{}") and sender.flush(ANSWER_S)

    make(1, 2, 3)
    assert wait_for(has_arrived, PATIENCE_S)
    first = kafka_cluster.servers[0]
    first.send(signal.SIGKILL)
    assert first.wait(5)
    assert wait_for(has_arrived, PATIENCE_S)  # another leads it, in the next epoch
    first.launch()
    first.wait_until_ready(lambda: True)
    admin.delete_topics([TOPIC], request_timeout=ANSWER_S)[TOPIC].result(ANSWER_S)
    make(3, 1, 2)
    assert wait_for(has_arrived, PATIENCE_S)
    assert make_admin(on(settings, kafka_cluster.url)).list_topics(TOPIC, timeout=ANSWER_S).topics[TOPIC].error is None
