"""A broker is there when it answers, and not when something takes a connection in its place."""

import signal
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from config import Settings
from jobs.kafka import pinging
from ops.local.kafka.properties import Access
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.certificates import make_certificate
from tests.patience import PATIENCE_S


def answers(settings: Settings, **given: str) -> bool:
    return pinging.answers(Settings.model_validate(settings.model_dump() | {"transport": "kafka"} | given))


@pytest.mark.xdist_group("kafka")
def test_a_broker_that_hangs_is_not_there(settings: Settings, kafka_broker: KafkaServer) -> None:
    assert answers(settings, kafka_brokers=kafka_broker.url)
    assert answers(settings, kafka_brokers=f"127.0.0.1:1,{kafka_broker.url}")
    kafka_broker.send(signal.SIGSTOP)
    try:
        assert not answers(settings, kafka_brokers=kafka_broker.url)
    finally:
        kafka_broker.send(signal.SIGCONT)
    assert answers(settings, kafka_brokers=kafka_broker.url)


@pytest.mark.usefixtures("java")
def test_by_tls_it_must_be_who_it_says(settings: Settings, tmp_path: Path) -> None:
    access = Access(protocol="SASL_SSL", mechanism="PLAIN", password="x", certificate=make_certificate(tmp_path))
    with KafkaServer(tmp_path / "home", access=access) as kafka:
        # Its first handshake takes a busy machine longer than anybody who asks has patience.
        assert wait_for(lambda: answers(settings, **kafka.settings), PATIENCE_S)
        (other := tmp_path / "other").mkdir()
        assert not answers(settings, **kafka.settings | {"kafka_ssl_ca": str(make_certificate(other))})
        plain = {"kafka_brokers": kafka.url, "kafka_security_protocol": "PLAINTEXT"}
        assert not answers(settings, **plain)
    assert not answers(settings, **kafka.settings)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"\0\0"])
def test_somebody_else_at_its_port_is_no_broker(settings: Settings, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with closing(server.accept()[0]) as line:
                line.recv(100)
                line.sendall(said)

        other = threading.Thread(target=answer)
        other.start()
        assert not answers(settings, kafka_brokers=f"127.0.0.1:{server.getsockname()[1]}")
        other.join()
