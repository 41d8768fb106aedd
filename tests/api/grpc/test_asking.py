"""Whoever asks how a gRPC face is gets an answer in time, whatever is at the other end."""

import socket
import time
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from api.grpc.asking import Answer, ask
from tests.api.grpc.healthy import grpc_server
from tests.certificates import make_certificate
from tests.ops.local.test_port_guard import if_ipv6

PATIENCE_S = 20.0


def asked(port: int, host: str = "127.0.0.1") -> Answer:
    return ask(host, port, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=if_ipv6)])
def test_one_that_serves_says_so(host: str) -> None:
    with grpc_server(host=f"[{host}]" if ":" in host else host) as server:
        assert asked(server.port, host) is Answer.SERVES


def test_one_that_is_about_to_leave_says_so() -> None:
    with grpc_server() as server:
        server.say(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert asked(server.port) is Answer.STOPS


def test_one_that_speaks_tls_is_known_by_that(tmp_path: Path) -> None:
    with grpc_server(make_certificate(tmp_path)) as server:
        assert asked(server.port) is Answer.ENCRYPTED


def test_nobody_is_silence() -> None:
    with grpc_server() as server:
        pass
    assert asked(server.port) is Answer.SILENT


def test_a_host_that_there_is_not_is_silence() -> None:
    assert asked(1, "nowhere.invalid") is Answer.SILENT


def test_one_who_never_answers_is_waited_for_a_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        assert ask("127.0.0.1", mute.getsockname()[1], timeout_s=0.5) is Answer.SILENT
        assert time.monotonic() - began < PATIENCE_S
