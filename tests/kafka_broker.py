"""Real brokers for tests: one, or three, for all tests of a process. A test that uses them says so in an xdist group.

pytestmark = pytest.mark.xdist_group("kafka")

def test_something(kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from jobs.kafka import apart
from ops.local.kafka.asking import make_client
from ops.local.kafka.cluster import KafkaCluster
from ops.local.kafka.java import find_java, find_maven
from ops.local.kafka.runtime import FOLDER, find_runtime
from ops.local.kafka.server import KafkaServer
from ops.local.processes import StackError, wait_for

REQUIRED = "REQUIRE_JAVA"
ANSWER_S = 15.0
# What the first start on a machine may take: Maven fetches the broker, and others may be waiting for that as well.
FIRST_START_S = 600


def need_java() -> None:
    """Skip a test where Kafka cannot be run for want of Java or Maven; fail it where REQUIRE_JAVA=1."""
    try:
        find_java()
        if not find_runtime().jars.is_dir():
            find_maven()
    except StackError as error:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{error}; and {REQUIRED}=1")
        pytest.skip(f"{error} ({REQUIRED}=1 makes this a failure)")


def has_to_fetch(item: pytest.Item) -> bool:
    """Whether a test asks for one of what is below, and may so have to wait until the broker has been fetched."""
    if not {"kafka_broker", "kafka_cluster", "java"} & set(getattr(item, "fixturenames", ())):
        return False
    return not any(FOLDER.glob("*/*.jsa"))


@pytest.fixture(scope="session")
def java() -> None:
    """Java and Maven, for tests that start brokers of their own."""
    need_java()


@pytest.fixture(scope="session")
def kafka_broker(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that tests may fill with what they like, and leave running."""
    del java
    server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
    yield server
    server.kill()  # an orderly stop takes seconds, and nobody is going to read what it would write


@pytest.fixture(scope="session")
def kafka_cluster(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers; a test that kills one starts it again."""
    del java
    cluster = KafkaCluster(tmp_path_factory.mktemp("cluster")).start()
    yield cluster
    cluster.kill()  # likewise


def admin_of(kafka: KafkaServer | KafkaCluster) -> AdminClient:
    """A client that may do everything, whatever others need for that, and says nothing on stderr."""
    return make_client(kafka.inside)


def make_topic(kafka: KafkaServer | KafkaCluster, name: str, *, partitions: int = 1) -> None:
    """Make a topic, with as many copies as there are brokers."""
    admin = admin_of(kafka)  # must outlive what it was asked for
    for done in admin.create_topics([NewTopic(name, partitions)], request_timeout=ANSWER_S).values():
        done.result(ANSWER_S)


def empty_topics(kafka: KafkaServer | KafkaCluster) -> None:
    """Delete all topics that are not Kafka's own, and with them what groups have read; return when they are gone.

    Groups whose members are still there stay, without any offsets.
    """
    admin = admin_of(kafka)

    def topics() -> list[str]:
        return [name for name in admin.list_topics(timeout=ANSWER_S).topics if not name.startswith("__")]

    if found := topics():
        for done in admin.delete_topics(found, request_timeout=ANSWER_S).values():
            with suppress(KafkaException):  # somebody else has, or it is away: seen below
                done.result(ANSWER_S)
    assert wait_for(lambda: not topics(), ANSWER_S)
    groups = admin.list_consumer_groups(request_timeout=ANSWER_S).result(ANSWER_S).valid
    if names := [group.group_id for group in groups]:
        apart.ask(_delete_groups, kafka.inside, names, timeout_s=ANSWER_S * 2)


def _delete_groups(brokers: str, names: Sequence[str]) -> None:
    admin = make_client(brokers)  # must outlive what it was asked for
    for left in admin.delete_consumer_groups([*names], request_timeout=ANSWER_S).values():
        with suppress(KafkaException):  # it has members
            left.result(ANSWER_S)
