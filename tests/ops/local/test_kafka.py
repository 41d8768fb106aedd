"""Brokers on this machine: they start, keep what they have confirmed, let in whom they should, and end in time."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from config.kafka import KafkaAccess
from ops.local.kafka.cluster import KafkaCluster
from ops.local.kafka.properties import Access, Mechanism, as_text
from ops.local.kafka.runtime import Runtime
from ops.local.kafka.server import KafkaServer, parse_kafka_line
from ops.local.processes import StackError, process_identity, wait_for
from tests.certificates import make_certificate
from tests.kafka_broker import ANSWER_S, admin_of, empty_topics, make_topic
from tests.patience import PATIENCE_S
from tests.project import ROOT

# Of the tests with a broker in common; the others each have one of their own, wherever they run.
together = pytest.mark.xdist_group("kafka")
PASSWORD = 'with "quotes", a \\, a $ and an \u00fc'
TOPIC = "tests"


def client(settings: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's settings, of the service's."""
    names = {"kafka_brokers": "bootstrap.servers", "kafka_ssl_ca": "ssl.ca.location"}
    theirs = {names.get(name, name.removeprefix("kafka_").replace("_", ".")): of for name, of in settings.items()}
    return {**theirs, "log_level": 0, "reconnect.backoff.max.ms": 250}


def send(kafka: KafkaServer | KafkaCluster, *values: str) -> list[object]:
    """Have them confirmed, or return why they were not."""
    failures: list[object] = []

    def note(error: KafkaError | None, _message: object) -> None:
        if error:
            failures.append(error.code())

    producer = Producer({**client(kafka.settings), "enable.idempotence": True, "message.timeout.ms": 30_000})
    for value in values:
        producer.produce(TOPIC, value, on_delivery=note)
    assert producer.flush(60) == 0
    return failures


def read(kafka: KafkaServer | KafkaCluster, count: int) -> list[str]:
    """The first records of the topic, which has one partition."""
    with closing(Consumer({**client(kafka.settings), "group.id": "tests", "enable.auto.commit": False})) as consumer:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        records = consumer.consume(count, timeout=60)
        return [(record.value() or b"").decode() for record in records if record.error() is None]


@together
def test_a_broker_hands_on_what_it_was_sent_by_its_own_clock(kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
    make_topic(kafka_broker, TOPIC)
    assert send(kafka_broker, "one", "two") == []
    assert read(kafka_broker, 2) == ["one", "two"]
    topic = ConfigResource(ResourceType.TOPIC, TOPIC)
    admin = admin_of(kafka_broker)
    found = admin.describe_configs([topic], request_timeout=ANSWER_S)[topic].result(ANSWER_S)
    assert found["message.timestamp.type"].value == "LogAppendTime"
    assert found["retention.ms"].value == str(7 * 24 * 60 * 60 * 1000)


@together
def test_no_topic_is_made_by_being_written_to(kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
    with closing(
        Consumer({**client(kafka_broker.settings), "group.id": "tests", "allow.auto.create.topics": True})
    ) as it:
        told = it.list_topics("unknown", timeout=ANSWER_S).topics["unknown"].error
        assert told.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert "unknown" not in admin_of(kafka_broker).list_topics(timeout=ANSWER_S).topics


@together
def test_topics_are_gone_once_they_are_emptied(kafka_broker: KafkaServer) -> None:
    empty_topics(kafka_broker)
    for _ in range(2):
        make_topic(kafka_broker, TOPIC)
        assert send(kafka_broker, "one") == []
        assert read(kafka_broker, 1) == ["one"]
        empty_topics(kafka_broker)


@together
def test_a_broker_is_reached_on_loopback_only(kafka_broker: KafkaServer) -> None:
    text = (kafka_broker.data.parent / "server.properties").read_text()
    listeners = next(line for line in text.splitlines() if line.startswith("listeners="))
    assert listeners.count("://") == listeners.count("://127.0.0.1:") == 2


@together
def test_every_line_of_its_log_is_a_json_object(kafka_broker: KafkaServer) -> None:
    lines = [json.loads(line) for line in kafka_broker.log.read_text().splitlines()]
    assert all({"time", "level", "event", "service"} <= line.keys() for line in lines)
    assert any(line["event"].endswith("Kafka Server started") for line in lines)


@pytest.mark.usefixtures("java")
def test_a_killed_broker_has_what_it_confirmed_and_its_port(tmp_path: Path) -> None:
    # Deep, with spaces, and with what separates several in a list: none may matter.
    with KafkaServer(tmp_path / "a home, or two" / ("x" * 100)) as kafka:
        make_topic(kafka, TOPIC)
        values = [str(number) for number in range(1_000)]
        assert send(kafka, *values) == []
        url, pid = kafka.url, kafka.pid
        kafka.send(signal.SIGKILL)
        assert kafka.wait(5)
        kafka.start()
        assert kafka.url == url
        assert kafka.pid != pid
        assert read(kafka, 1_000) == values


@pytest.mark.usefixtures("java")
def test_a_taken_port_is_replaced_and_a_given_one_is_not(tmp_path: Path) -> None:
    (before := KafkaServer(tmp_path)).prepare()
    taken = before.ports
    with socket.create_server(("127.0.0.1", taken.client)):
        with KafkaServer(tmp_path) as kafka:
            assert kafka.ports.client != taken.client
            assert kafka.ports.controller == taken.controller
        with pytest.raises(
            StackError, match=r"kafka did not start: Socket server failed to bind to [0-9.:]+ Address already in use"
        ):
            KafkaServer(tmp_path, port=taken.client).start()
    assert not (tmp_path / "run" / "kafka.pid").exists()


@pytest.mark.usefixtures("java")
def test_a_killed_parent_takes_its_broker_along_and_the_next_start_has_the_data(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ops.local.kafka.server import KafkaServer\n"
        "print(KafkaServer(Path(sys.argv[1])).start().pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert process_identity(pid)
        parent.kill()
    # Started at once, while the old one may still be on its way out.
    with KafkaServer(tmp_path) as kafka:
        assert not process_identity(pid)
        make_topic(kafka, TOPIC)


@pytest.mark.usefixtures("java")
def test_a_broker_starts_without_parsed_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "has_archive", lambda _: False)
    with KafkaServer(tmp_path) as kafka:
        assert not any("SharedArchiveFile" in part for part in kafka.spec.command)
        make_topic(kafka, TOPIC)


@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_who_proves_who_they_are_gets_in_by_tls_and_nobody_else(tmp_path: Path, mechanism: Mechanism) -> None:
    access = Access(protocol="SASL_SSL", mechanism=mechanism, password=PASSWORD, certificate=make_certificate(tmp_path))
    with KafkaServer(tmp_path / "home", access=access) as kafka:
        assert kafka.url.startswith("localhost:")
        KafkaAccess.model_validate(kafka.settings)  # the service takes these
        make_topic(kafka, TOPIC)
        assert send(kafka, "one") == []
        assert read(kafka, 1) == ["one"]
        assert why_refused(kafka.settings | {"kafka_sasl_password": "wrong"}) == KafkaError._AUTHENTICATION
        stranger = kafka.settings | {"kafka_ssl_ca": str(strangers_certificate(tmp_path))}
        assert why_refused(stranger) == KafkaError._SSL
        log = kafka.log.read_text()
        assert PASSWORD not in log
        assert PASSWORD not in " ".join(kafka.spec.command)
    properties = tmp_path / "home" / "kafka" / "server.properties"
    assert properties.stat().st_mode & 0o077 == 0


def why_refused(settings: Mapping[str, str]) -> int:
    """The error that a client is told of at last; it is not told at once that it may go on trying."""
    told: list[int] = []
    producer = Producer({**client(settings), "error_cb": lambda error: told.append(error.code())})

    def is_refused() -> bool:
        producer.poll(0)
        return bool(set(told) & {KafkaError._AUTHENTICATION, KafkaError._SSL})

    assert wait_for(is_refused, PATIENCE_S), told
    return next(code for code in told if code in {KafkaError._AUTHENTICATION, KafkaError._SSL})


def strangers_certificate(folder: Path) -> Path:
    (other := folder / "other").mkdir()
    return make_certificate(other)


@pytest.mark.xdist_group("kafka-cluster")
@pytest.mark.long
def test_of_three_brokers_one_may_be_killed(kafka_cluster: KafkaCluster) -> None:
    empty_topics(kafka_cluster)
    make_topic(kafka_cluster, TOPIC)
    assert send(kafka_cluster, "before") == []
    admin = admin_of(kafka_cluster)
    leader = admin.list_topics(TOPIC, timeout=ANSWER_S).topics[TOPIC].partitions[0].leader
    killed = next(server for server in kafka_cluster.servers if server.node_id == leader)
    killed.send(signal.SIGKILL)
    assert killed.wait(5)
    assert send(kafka_cluster, "meanwhile") == []
    killed.launch()
    killed.wait_until_ready(lambda: True)

    def are_all_in_step() -> bool:
        try:
            return len(admin.list_topics(TOPIC, timeout=ANSWER_S).topics[TOPIC].partitions[0].isrs) == 3
        except KafkaException:
            return False

    assert wait_for(are_all_in_step, PATIENCE_S)
    assert read(kafka_cluster, 2) == ["before", "meanwhile"]


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("WARN RaftManager Ready", {"level": "warning", "event": "Ready", "logger": "RaftManager"}),
        ("FATAL Kafka a b", {"level": "critical", "event": "a b", "logger": "Kafka"}),
        ("OpenJDK 64-Bit Server VM", {"level": "info", "event": "OpenJDK 64-Bit Server VM"}),
        ("Error: no class", {"level": "error", "event": "Error: no class"}),
        ("LOUD Kafka a", {"level": "info", "event": "LOUD Kafka a"}),
    ],
)
def test_lines_of_kafka(line: str, record: dict[str, object]) -> None:
    assert parse_kafka_line(line) == record


def test_properties_hold_whatever_a_value_is() -> None:
    assert as_text({"a": "1=2:3 #", "b": " c\\d", "e": "\u00fc\n\U0001f4b0"}) == (
        "a=1=2:3 #\nb=\\ c\\\\d\ne=\\u00fc\\u000a\\ud83d\\udcb0\n"
    )
