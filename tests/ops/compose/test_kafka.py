"""The broker of the profile kafka: what can be told without an engine to run it."""

import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ops.local.kafka.properties import Access, Ports, broker_properties
from ops.local.kafka.server import KafkaServer
from tests.kafka_broker import ANSWER_S, admin_of
from tests.ops.compose.test_compose import COMPOSE
from tests.project import ROOT

KAFKA: dict[str, Any] = COMPOSE["services"]["kafka"]
PROPERTIES = dict(
    line.split("=", 1)
    for line in (ROOT / "ops" / "compose" / "kafka.properties").read_text().splitlines()
    if not line.startswith("#")
)
# What is of the place that it is in.
OF_THE_PLACE = {
    *("advertised.listeners", "controller.quorum.voters", "listeners", "listener.security.protocol.map"),
    "log.dirs",
}


def test_it_may_do_little_is_restarted_and_bounded_and_is_reached_by_the_service_alone() -> None:
    assert KAFKA["profiles"] == ["kafka"]
    assert KAFKA["read_only"] is True
    assert KAFKA["cap_drop"] == ["ALL"]
    assert "cap_add" not in KAFKA
    assert KAFKA["security_opt"] == ["no-new-privileges:true"]
    assert KAFKA["restart"] == "unless-stopped"
    assert set(KAFKA["logging"]["options"]) == {"max-size", "max-file", "labels"}
    assert KAFKA["networks"] == ["backend"]
    assert "ports" not in KAFKA
    assert "kafka-data:/var/lib/kafka/data" in KAFKA["volumes"]
    assert PROPERTIES["log.dirs"].startswith("/var/lib/kafka/data/")
    assert PROPERTIES["advertised.listeners"] == "CLIENT://kafka:9092"


def test_it_is_set_as_the_one_that_make_run_starts() -> None:
    embedded = broker_properties(1, {1: Ports(1, 2, 0)}, Access())
    assert PROPERTIES.keys() == embedded.keys()
    assert {name for name, value in embedded.items() if value != PROPERTIES[name]} == OF_THE_PLACE


@pytest.mark.usefixtures("java")
def test_a_broker_takes_these_properties(tmp_path: Path) -> None:
    given = {name: value for name, value in PROPERTIES.items() if name not in OF_THE_PLACE}
    with KafkaServer(tmp_path, properties=given) as kafka:
        assert admin_of(kafka).list_topics(timeout=ANSWER_S).brokers.keys() == {1}


def test_data_are_made_once(tmp_path: Path) -> None:
    data, calls = tmp_path / "data", tmp_path / "calls"
    java = tmp_path / "java"
    java.write_text(
        f"#!/bin/sh\necho \"$*\" >> '{calls}'\n"
        f"case $* in *StorageTool*) mkdir -p '{data}/topics' && : > '{data}/topics/meta.properties' ;; esac\n"
    )
    java.chmod(0o755)
    *shell, script = [word.replace("$$", "$").replace("/var/lib/kafka/data", str(data)) for word in KAFKA["entrypoint"]]
    for _ in range(2):
        subprocess.run([*shell, script], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    form, *starts = calls.read_text().splitlines()
    assert " -cp /opt/kafka/libs/* kafka.tools.StorageTool format " in form
    words = form.split()
    assert len(words[words.index("-t") + 1]) == 22
    assert words[-1] == "/etc/wallet-kafka/kafka.properties"
    assert [start.partition(" -cp ")[2] for start in starts] == [
        "/opt/kafka/libs/* kafka.Kafka /etc/wallet-kafka/kafka.properties"
    ] * 2


def ask_for_health(port: int) -> int:
    _, *words = KAFKA["healthcheck"]["test"]
    *shell, script = words
    asked = [*shell, script.replace("$$", "$").replace("/127.0.0.1/9092", f"/127.0.0.1/{port}")]
    return subprocess.run(asked, check=False, timeout=60, capture_output=True).returncode


@pytest.mark.xdist_group("kafka")
def test_it_is_healthy_once_a_broker_answers(kafka_broker: KafkaServer) -> None:
    assert ask_for_health(kafka_broker.port) == 0


def test_it_is_not_healthy_where_nobody_answers_or_somebody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request")

        other = threading.Thread(target=answer)
        other.start()
        assert ask_for_health(port) != 0
        other.join()
    assert ask_for_health(port) != 0
