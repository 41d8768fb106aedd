"""The master of gRPC processes: they are replaced when they die or are told to, and gone with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from ops.local.processes import process_identity, wait_for
from ops.local.supervisor import LONG_LIFE_S
from ops.local.turns import Turns
from tests.certificates import make_certificate
from tests.jobs.test_metrics_server import answers
from tests.nursery import Forked
from tests.ops.grpc.http2 import PREFACE
from tests.ops.local.test_grpc_processes import serves
from tests.ops.local.test_stack import are_gone, free_port
from tests.patience import PATIENCE_S
from tests.project import ROOT


class Crew:
    """One ``python -m ops.grpc``."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder / "grpc"
        self.log = folder / "log"
        (metrics := folder / "metrics").mkdir()
        environment = {"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(metrics), "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self.process = Forked(
                [sys.executable, "-m", "ops.grpc", str(self.folder)],
                cwd=ROOT,
                env=environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def pids(self) -> list[int]:
        found = (file.read_text().split() for file in sorted(self.folder.glob("grpc-*.pid")))
        return [int(words[0]) for words in found if words]

    def wait_until_serving(self, count: int = 2) -> None:
        with closing(Turns(self.folder)) as turns:
            assert wait_for(lambda: turns.count_serving() == count, PATIENCE_S), self.log.read_text()

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def settings(books: Engine, redis_client: redis.Redis, database_url: str, redis_url: str) -> dict[str, str]:
    """What a container is told, but for its port being anybody's."""
    del books, redis_client  # asked for to be emptied
    port = str(free_port())
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "GRPC_PORT": port, "LOG_LEVEL": "INFO"}


@pytest.fixture
def started() -> Iterator[list[Crew]]:
    """Crews that end with the test."""
    crews: list[Crew] = []
    yield crews
    for crew in crews:
        crew.process.kill()
        crew.process.wait()


def test_they_serve_are_replaced_and_stop_together(
    tmp_path: Path, settings: dict[str, str], started: list[Crew]
) -> None:
    metrics = free_port()
    started.append(crew := Crew(tmp_path, **settings, METRICS_PORT=str(metrics)))
    crew.wait_until_serving()
    target = f"127.0.0.1:{settings['GRPC_PORT']}"
    assert all(serves(target) for _ in range(6))
    assert wait_for(lambda: answers(metrics), PATIENCE_S)
    killed, other = crew.pids()
    os.kill(killed, signal.SIGKILL)
    assert wait_for(lambda: len(crew.pids()) == 2 and crew.pids()[0] != killed, PATIENCE_S)
    assert crew.pids()[1] == other
    crew.wait_until_serving()
    assert answers(metrics)
    pids = set(crew.pids())
    assert crew.stop() == 0
    assert are_gone(pids)
    assert all(isinstance(json.loads(line), dict) for line in crew.lines())
    told = [json.loads(line) for line in crew.lines()]
    assert "grpc-1 runs again" in {line["event"] for line in told}
    # One of them shows the metrics of both, and that is no reason for a warning.
    assert {line["level"] for line in told if line["event"] == "metrics are not served"} == {"info"}


def test_a_hangup_replaces_all_of_them_and_never_two_at_once(
    tmp_path: Path, settings: dict[str, str], started: list[Crew]
) -> None:
    started.append(crew := Crew(tmp_path, **settings))
    crew.wait_until_serving()
    before = set(crew.pids())
    seen = set()
    with closing(Turns(crew.folder)) as turns:

        def are_replaced() -> bool:
            seen.add(turns.count_serving())
            return are_gone(before) and turns.count_serving() == 2

        crew.process.send_signal(signal.SIGHUP)
        assert wait_for(are_replaced, PATIENCE_S), crew.log.read_text()
    assert seen == {1, 2}
    assert serves(f"127.0.0.1:{settings['GRPC_PORT']}")
    assert crew.stop() == 0


def test_who_looks_after_them_takes_them_along_however_it_ends(
    tmp_path: Path, settings: dict[str, str], started: list[Crew]
) -> None:
    started.append(crew := Crew(tmp_path, **settings, GRPC_PROCESSES="1"))
    crew.wait_until_serving(1)
    (pid,) = crew.pids()
    crew.process.kill()
    assert wait_for(lambda: not process_identity(pid), PATIENCE_S)


def test_a_process_whose_certificate_is_away_is_tried_until_it_is_back(
    tmp_path: Path, settings: dict[str, str], started: list[Crew]
) -> None:
    pem = make_certificate(tmp_path)
    started.append(crew := Crew(tmp_path, **settings | {"GRPC_TLS_CERT": str(pem), "GRPC_TLS_KEY": str(pem)}))
    crew.wait_until_serving()
    time.sleep(LONG_LIFE_S)  # what dies sooner has never run
    hidden = pem.rename(tmp_path / "hidden.pem")
    os.kill(crew.pids()[0], signal.SIGKILL)
    assert wait_for(lambda: any("GRPC_TLS_CERT: cannot be read" in line for line in crew.lines()), PATIENCE_S)
    crew.wait_until_serving(1)
    hidden.rename(pem)
    crew.wait_until_serving(2)
    assert crew.stop() == 0


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, settings: dict[str, str], started: list[Crew]) -> None:
    with socket.create_server(("127.0.0.1", int(settings["GRPC_PORT"])), reuse_port=True):
        started.append(crew := Crew(tmp_path, **settings))
        assert crew.process.wait(PATIENCE_S) == 1
    (line,) = crew.lines()
    assert line.startswith(f"grpc: cannot listen on GRPC_PORT={settings['GRPC_PORT']} of HOST=127.0.0.1: ")


def test_a_wrong_setting_is_one_line(tmp_path: Path, settings: dict[str, str], started: list[Crew]) -> None:
    started.append(crew := Crew(tmp_path, **settings | {"GRPC_PROCESSES": "none"}))
    assert crew.process.wait(PATIENCE_S) == 2
    (line,) = crew.lines()
    assert line.startswith("configuration error: GRPC_PROCESSES: ")


def test_with_off_it_waits_for_its_end(tmp_path: Path, settings: dict[str, str], started: list[Crew]) -> None:
    started.append(crew := Crew(tmp_path, **settings | {"GRPC_PORT": "off"}))
    assert wait_for(lambda: any("GRPC_PORT=off" in line for line in crew.lines()), PATIENCE_S)
    assert crew.pids() == []
    assert crew.stop() == 0


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_whoever_speaks_something_else_writes_no_line_of_the_librarys(
    tmp_path: Path, settings: dict[str, str], started: list[Crew], is_encrypted: bool
) -> None:
    pem = str(make_certificate(tmp_path))
    tls = {"GRPC_TLS_CERT": pem, "GRPC_TLS_KEY": pem} if is_encrypted else {}
    started.append(crew := Crew(tmp_path, **settings, **tls))
    crew.wait_until_serving()
    for bytes_ in (b"GET / HTTP/1.1\r\n\r\n", PREFACE + bytes(9), b"\x16\x03\x01\x00\x05" + bytes(5), b"?" * 64):
        with socket.create_connection(("127.0.0.1", int(settings["GRPC_PORT"])), timeout=PATIENCE_S) as stranger:
            stranger.sendall(bytes_)
            with suppress(ConnectionResetError):
                while stranger.recv(4096):
                    pass
    assert crew.stop() == 0
    assert all(isinstance(json.loads(line), dict) for line in crew.lines())
