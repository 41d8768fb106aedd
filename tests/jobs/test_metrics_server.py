"""A worker shows its own metrics where no API can, and neither a taken port nor a silent client keeps it from it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from observe import background, metrics_server
from observe.metrics_server import MetricsServer
from ops.local.processes import wait_for
from tests.jobs.backlog import assert_posted_once, backlog, statuses
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.samples import Samples, check_with_promtool


def ask(port: int, path: str = "/metrics") -> tuple[int, str, bytes]:
    """Ask for metrics."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()


def answers(port: int) -> bool:
    try:
        return ask(port)[0] == 200
    except OSError:
        return False


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


Start = Callable[[int], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(
    tmp_path: Path, books: Engine, redis_client: redis.Redis, database_url: str, redis_url: str
) -> Iterator[Start]:
    """A starter of workers that share a folder."""
    del books, redis_client  # asked for to be emptied
    started: list[subprocess.Popen[bytes]] = []
    (folder := tmp_path / "metrics").mkdir()

    def start(port: int) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "METRICS_PORT": str(port),
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(
                Forked([sys.executable, "worker.py"], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@contextmanager
def silent_client(port: int) -> Iterator[None]:
    """Somebody who connects, says half a word and waits."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /met")
        yield


def test_a_worker_shows_what_it_has_counted(start: Start, port: int, books: Engine, redis_client: redis.Redis) -> None:
    start(port)
    assert wait_for(lambda: answers(port), PATIENCE_S)
    ids = backlog(books, redis_client, 5)

    def posted() -> float:
        return Samples.of(ask(port)[2]).value("wallet_transfers_total", kind="transfer", outcome="posted")

    assert wait_for(lambda: posted() == 5, PATIENCE_S)
    assert_posted_once(books, ids)
    status, kind, body = ask(port)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    check_with_promtool(body)
    assert ask(port, "/")[0] == 404


def test_a_second_worker_on_the_port_works_is_shown_by_the_first_and_follows_it(
    start: Start, port: int, tmp_path: Path, books: Engine, redis_client: redis.Redis
) -> None:
    first = start(port)
    assert wait_for(lambda: answers(port), PATIENCE_S)
    second = start(port)
    assert wait_for(lambda: b"metrics are not served" in (tmp_path / "worker.log").read_bytes(), PATIENCE_S)
    first.send_signal(signal.SIGSTOP)
    ids = backlog(books, redis_client, 5)
    assert wait_for(lambda: statuses(books, ids) == {"posted"}, PATIENCE_S)
    first.send_signal(signal.SIGCONT)
    samples = Samples.of(ask(port)[2])
    assert samples.value("wallet_transfers_total", kind="transfer", outcome="posted") == 5
    assert second.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE_S) == 0
    assert wait_for(lambda: answers(port), PATIENCE_S)


def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_client(
    start: Start, port: int, books: Engine, redis_client: redis.Redis
) -> None:
    worker = start(port)
    ids = backlog(books, redis_client, 1)
    assert wait_for(lambda: statuses(books, ids) == {"posted"}, PATIENCE_S)
    with silent_client(port):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0


def test_a_worker_that_begins_folds_what_the_dead_have_left(start: Start, port: int, tmp_path: Path) -> None:
    first = start(port)
    assert wait_for(lambda: bool(list(tmp_path.glob(f"metrics/*_{first.pid}.db"))), PATIENCE_S)
    first.kill()
    first.wait()
    start(port)
    assert wait_for(lambda: not list(tmp_path.glob(f"metrics/*_{first.pid}.db")), PATIENCE_S)


def test_a_silent_client_holds_up_the_next_one_for_a_bounded_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    with MetricsServer("127.0.0.1", port) as server, silent_client(port):
        server.handle_request()  # the silent one's
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            server.handle_request()
            assert client.recv(64).startswith(b"HTTP/1.0 200 ")


def test_the_server_goes_on_after_whatever_happens_to_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_S", 0.0)
    failed = threading.Event()

    def fail_once(_server: MetricsServer) -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError

    monkeypatch.setattr(MetricsServer, "service_actions", fail_once)  # called between two requests
    metrics_server.serve_metrics("127.0.0.1", port)
    assert failed.wait(PATIENCE_S)
    assert wait_for(lambda: answers(port), PATIENCE_S)
