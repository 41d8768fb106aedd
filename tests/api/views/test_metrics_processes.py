"""One scrape tells of all processes of a machine: right while they come, go, and are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from tests.api.calls import BALANCE, DEPOSIT, TRANSFER_LATER
from tests.api.server import Gunicorn, gunicorn
from tests.api.waiters import wait_for
from tests.conftest import ADMIN_PASSWORD
from tests.nursery import Forked
from tests.project import ROOT
from tests.samples import Samples, check_with_promtool

PROCESSES = 3


class Machine:
    """An API of several processes and a worker, with a folder in common."""

    def __init__(self, server: Gunicorn, folder: Path, environment: dict[str, str]) -> None:
        self.server = server
        self.folder = folder
        self._environment = environment

    def scrape(self) -> Samples:
        answer = self.server.ask("GET", "/metrics")
        assert answer.status == 200
        return Samples.of(answer.body)

    def ask_everybody(self, count: int = 60) -> None:
        """Ask for a balance so often and so much at once that each process gets its share."""
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: self.server.get(BALANCE), range(count)))
        assert {answer.status for answer in answers} == {200}

    def api_pids(self) -> set[int]:
        """The pids of gunicorn's own workers."""
        children = Path(f"/proc/{self.server.process.pid}/task/{self.server.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Let a worker run."""
        with (self.folder.parent / "worker.log").open("ab") as log:
            process = Forked(
                [sys.executable, "worker.py"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def machine(
    tmp_path: Path, database_url: str, redis_url: str, engine: Engine, redis_client: redis.Redis
) -> Iterator[Machine]:
    """The machine, with users 1 and 2 who have 10000 cents each."""
    del engine, redis_client  # asked for to be emptied
    folder = tmp_path / "metrics"
    folder.mkdir()
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ADMIN_PASSWORD": ADMIN_PASSWORD,
        "API_PROCESSES": str(PROCESSES),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }
    inherited = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}}
    with gunicorn(tmp_path / "api.log", **settings) as server:
        for user in (1, 2):
            assert server.move(DEPOSIT, {"amount": 10_000}, user=user).status == 200
        machine = Machine(server, folder, inherited | settings)
        wait_for(lambda: len(machine.api_pids()) == PROCESSES)
        yield machine


def balances_read(samples: Samples) -> float:
    return samples.sum("wallet_http_request_duration_seconds_count", route=BALANCE, method="GET", status="200")


def test_requests_to_all_processes_are_counted_through_kills_and_reloads(machine: Machine) -> None:
    machine.ask_everybody()
    before = machine.scrape()
    assert balances_read(before) == 60
    assert before.value("wallet_transfers_total", kind="deposit", outcome="posted") == 2
    first = machine.api_pids()

    victim = first.copy().pop()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in machine.api_pids() and len(machine.api_pids()) == PROCESSES)
    # Before anybody has asked: the master does it, or the files would grow in number where nobody ever asks.
    wait_for(lambda: not list(machine.folder.glob(f"*_{victim}.db")))
    killed = machine.scrape()
    assert list(killed.fallen_since(before)) == []
    assert balances_read(killed) == 60
    machine.ask_everybody()
    assert balances_read(machine.scrape()) == 120

    second = machine.api_pids()
    os.kill(machine.server.process.pid, signal.SIGHUP)
    wait_for(lambda: not machine.api_pids() & second and len(machine.api_pids()) == PROCESSES)
    reloaded = machine.scrape()
    assert list(reloaded.fallen_since(killed)) == []
    assert balances_read(reloaded) == 120
    machine.ask_everybody()
    assert balances_read(machine.scrape()) == 180
    # The dead have left nothing of their own behind.
    assert not {pid for pid in first | second if list(machine.folder.glob(f"*_{pid}.db"))}
    check_with_promtool(machine.server.ask("GET", "/metrics").body)


def test_what_workers_count_is_told_by_the_api_also_after_their_death(machine: Machine) -> None:
    def posted() -> float:
        return machine.scrape().value("wallet_transfers_total", kind="transfer", outcome="posted")

    def accept() -> None:
        assert machine.server.move(TRANSFER_LATER, {"destination_user_id": 2, "amount": 1}).status == 202

    with machine.worker():
        accept()
        wait_for(lambda: posted() == 1)
        wait_for(lambda: machine.scrape().value("wallet_batch_size_count") == 1)
        wait_for(lambda: machine.scrape().value("wallet_relay_passes_total", result="ok") >= 2)
    before = machine.scrape()
    assert before.value("wallet_transfer_settle_seconds_count") == 1
    assert 0 < before.value("wallet_transfer_settle_seconds_sum") < 60
    assert before.value("wallet_batch_size_sum") == 1
    assert before.value("wallet_relay_last_pass_timestamp_seconds") > 0
    accept()
    with machine.worker():
        wait_for(lambda: posted() == 2)
    after = machine.scrape()
    assert list(after.fallen_since(before)) == []
    assert after.value("wallet_transfer_settle_seconds_count") == 2


def test_no_scrape_of_any_process_sees_a_counter_fall_during_a_reload(machine: Machine) -> None:
    def scrape_often(_: int) -> list[str]:
        fallen, before = [], machine.scrape()
        for _ in range(10):
            samples = machine.scrape()
            fallen += list(map(str, samples.fallen_since(before)))
            before = samples
        return fallen

    with ThreadPoolExecutor(6) as pool:
        scraping = [pool.submit(scrape_often, number) for number in range(6)]
        machine.ask_everybody(30)
        before = machine.api_pids()
        os.kill(machine.server.process.pid, signal.SIGHUP)
        wait_for(lambda: not before & machine.api_pids())
        fallen = [each for scrapes in scraping for each in scrapes.result()]
    assert fallen == []
