"""``make run`` as a whole: up, down, killed, refused."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from models.schema.migrations.exclusive import alone
from ops.local.processes import process_identity, wait_for
from ops.local.servers import PostgresServer
from tests.models.ledger.ordering import bounded_engine
from tests.nursery import Forked
from tests.ops.local.test_servers import ask
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.samples import Samples

pytestmark = pytest.mark.stack
# Of the tests with a stack in common; the others each have one of their own, wherever they run.
together = pytest.mark.xdist_group("stack")


class Run:
    """One ``python -m ops.local.stack`` on a home of its own."""

    def __init__(
        self, home: Path, *, is_first: bool = True, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.home = home
        self.settings = settings
        self.port = settings.get("PORT") or next(
            port for port in map(str, free_ports(2)) if port != settings.get("GRPC_PORT")
        )
        self.state_file = home / "run" / "stack.json"
        # What a killed run has left says nothing about this one.
        if is_first:
            self.state_file.unlink(missing_ok=True)
        environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(home), "PORT": self.port}
        # Two runs side by side must not meet at the port beside PORT: tests of gRPC name one of their own.
        environment |= {"WORKERS": "1", "API_PROCESSES": "1", "GRPC_PORT": "off"}
        self.process = Forked(
            [sys.executable, "-m", "ops.local.stack"],
            cwd=ROOT,
            env={**environment, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.state_file.read_text()))

    def wait_until_up(self) -> dict[str, Any]:
        assert wait_for(lambda: self.state_file.exists() or self.process.poll() is not None, PATIENCE_S)
        assert self.process.poll() is None, self.output()
        return self.state()

    def pids(self) -> set[int]:
        return pids_in(self.state())

    def output(self) -> str:
        return str(self.process.communicate(timeout=PATIENCE_S)[0])

    def finish(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.output()
        return self.process.returncode


def pids_in(state: Mapping[str, Any]) -> set[int]:
    single = (state[name]["pid"] for name in ("api", "postgres", "redis"))
    behind = (each["pid"] for kind in ("workers", "webhooks") for each in state[kind])
    return {*single, *behind, *state.get("grpc", {"pids": ()})["pids"]}


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Ports that are free, no two of them the same: asked for one after the other they may be."""
    with ExitStack() as probes:
        opened = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in opened]


def are_gone(pids: set[int]) -> bool:
    return not any(process_identity(pid) for pid in pids)


def get(run: Run, path: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", int(run.port), timeout=30)) as connection:
        connection.request("GET", path, headers={"Authorization": "1"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def is_ready(run: Run) -> bool:
    try:
        return get(run, "/readyz")[0] == 200
    except OSError:
        return False


def scrape(run: Run) -> Samples:
    with closing(http.client.HTTPConnection("127.0.0.1", int(run.port), timeout=30)) as connection:
        connection.request("GET", "/metrics")
        return Samples.of(connection.getresponse().read())


def health_checks(run: Run) -> float:
    return scrape(run).sum("wallet_http_request_duration_seconds_count", route="/healthz")


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run for tests that leave it as it was, which ends by Ctrl-C."""
    run = Run(tmp_path_factory.mktemp("home"), settings={"API_PROCESSES": "2"})
    try:
        run.wait_until_up()
        yield run
        assert run.finish(signal.SIGINT) == 0
    finally:
        run.process.kill()
        run.process.communicate()


def test_the_stack_starts_tells_what_is_up_and_stops_on_sigterm(tmp_path: Path, runs: list[Run]) -> None:
    home = tmp_path / "home"
    runs.append(run := Run(home))
    state = run.wait_until_up()
    assert state.keys() == {"api", "workers", "webhooks", "postgres", "redis", "admin"}
    assert state["api"]["url"] == f"http://127.0.0.1:{run.port}"
    assert len(state["workers"]) == 1
    assert state["postgres"]["url"].startswith("postgresql://wallet:")
    assert state["redis"]["url"].startswith("redis://:")
    assert state["admin"] == {"user": "admin", "password": (home / "secrets" / "admin_password").read_text()}
    assert stat.S_IMODE((home / "run" / "stack.json").stat().st_mode) == 0o600
    assert get(run, "/readyz")[0] == 200
    assert get(run, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    assert run.finish() == 0
    assert are_gone(pids_in(state))
    assert not (home / "run" / "stack.json").exists()
    for log in home.rglob("*.log"):
        assert all(isinstance(json.loads(line), dict) for line in log.read_text().splitlines()), log


def files_of(home: Path) -> Iterator[Path]:
    """All that is there, but for what goes away while one looks."""
    for path in home.rglob("*"):
        if not path.is_symlink() and path.exists():
            yield path


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@together
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_who_serves_does_not_know_the_owner_and_no_command_line_tells_a_secret(shared: Run) -> None:
    state = shared.state()
    secrets = {path.name: path.read_text() for path in (shared.home / "secrets").iterdir()}
    assert get(shared, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    who = (
        "SELECT string_agg(DISTINCT usename, ' ') FROM pg_stat_activity WHERE application_name ~ '^wallet-(api|worker)'"
    )
    assert ask(state["postgres"]["url"], who) == "wallet_service"
    environment = environment_of(state["workers"][0]["pid"])
    assert environment["DATABASE_URL"].startswith("postgresql://wallet_service:")
    for name in ("postgres_wallet", "postgres_superuser"):
        assert secrets[name] not in " ".join(environment.values())
    for pid in (state["postgres"]["pid"], state["redis"]["pid"]):
        assert not set(secrets.values()) & set(environment_of(pid).values())
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert [name for name, value in secrets.items() if value in shown] == []
    readable = [path for path in files_of(shared.home) if path.stat().st_mode & 0o044]
    assert readable == []


def serving(server: PostgresServer, owner_url: str) -> str:
    """The URL of the same database for the role that serves."""
    return server.service_url.rpartition("/")[0] + "/" + owner_url.rpartition("/")[2]


def test_with_two_roles_of_ones_own_one_migrates_and_the_other_serves(
    tmp_path: Path, runs: list[Run], postgres_server: PostgresServer, empty_database_url: str
) -> None:
    urls = {
        "DATABASE_URL": serving(postgres_server, empty_database_url),
        "OWNER_DATABASE_URL": empty_database_url,
    }
    runs.append(run := Run(tmp_path, settings=urls))
    state = run.wait_until_up()
    assert state["postgres"] == {"url": empty_database_url, "pid": None}
    assert environment_of(state["workers"][0]["pid"]).keys() & urls.keys() == {"DATABASE_URL"}
    assert get(run, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    assert run.finish() == 0


def test_one_role_of_ones_own_migrates_and_serves(tmp_path: Path, runs: list[Run], empty_database_url: str) -> None:
    runs.append(run := Run(tmp_path, settings={"DATABASE_URL": empty_database_url}))
    assert run.wait_until_up()["postgres"] == {"url": empty_database_url, "pid": None}
    assert get(run, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    assert run.finish() == 0


def test_a_role_that_may_not_migrate_is_told_in_one_line(
    tmp_path: Path, runs: list[Run], postgres_server: PostgresServer, empty_database_url: str
) -> None:
    settings = {"DATABASE_URL": serving(postgres_server, empty_database_url)}
    runs.append(run := Run(tmp_path, settings=settings))
    output = run.output()
    assert "permission denied for schema public" in output
    assert "Traceback" not in output
    assert run.process.returncode == 1


@together
def test_what_is_killed_comes_back_alone(shared: Run) -> None:
    before = shared.state()
    for pid in (before["workers"][0]["pid"], before["api"]["pid"], before["redis"]["pid"]):
        others = shared.pids() - {pid}
        os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: pid not in shared.pids(), PATIENCE_S)  # noqa: B023 - called within the loop
        assert shared.pids() >= others
    assert shared.state()["postgres"] == before["postgres"]
    assert shared.state()["redis"]["url"] == before["redis"]["url"]
    # And serves again.
    assert wait_for(lambda: is_ready(shared), PATIENCE_S)


@together
def test_the_api_tells_what_all_processes_have_counted(shared: Run) -> None:
    def relay_passes() -> float:
        return scrape(shared).value("wallet_relay_passes_total", result="ok")

    worker = shared.state()["workers"][0]["pid"]
    counted = health_checks(shared)
    for _ in range(3):
        assert get(shared, "/healthz")[0] == 200
    assert health_checks(shared) == counted + 3
    assert wait_for(lambda: relay_passes() >= 2, PATIENCE_S)
    before = scrape(shared)
    os.kill(worker, signal.SIGKILL)
    assert wait_for(lambda: worker not in shared.pids(), PATIENCE_S)
    assert wait_for(lambda: relay_passes() > before.value("wallet_relay_passes_total", result="ok"), PATIENCE_S)
    assert list(scrape(shared).fallen_since(before)) == []


@together
def test_a_second_run_is_refused_and_the_first_one_stays(shared: Run, runs: list[Run]) -> None:
    pids = shared.pids()
    runs.append(second := Run(shared.home, is_first=False))
    assert second.output() == f"make run: already running on WALLET_HOME={shared.home} (pid {shared.process.pid})\n"
    assert second.process.returncode == 1
    assert shared.pids() == pids


def test_a_killed_supervisor_leaves_nothing_and_the_next_run_has_the_data(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path))
    pids = pids_in(run.wait_until_up())
    assert get(run, "/healthz")[0] == 200
    assert health_checks(run) == 1
    run.process.kill()
    assert wait_for(lambda: are_gone(pids), PATIENCE_S)
    runs.append(again := Run(tmp_path, settings={"PORT": run.port}))
    again.wait_until_up()
    assert get(again, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    # What an earlier run has counted belongs to it.
    assert health_checks(again) == 0
    assert again.finish() == 0


def test_a_stop_during_the_start_is_orderly(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path))
    assert wait_for((tmp_path / "run" / "postgres.pid").exists, PATIENCE_S)
    assert run.finish() == 0
    assert not (tmp_path / "run" / "postgres.pid").exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"PORT": "0"}, "configuration error: PORT: "),
        ({"WORKERS": "many"}, "configuration error: WORKERS: "),
        ({"RETRY_DELAYS": "-1"}, "configuration error: RETRY_DELAYS: "),
        ({"AUTH_MODE": "trust"}, "configuration error: AUTH_MODE: "),
        ({"HOST": "0.0.0.0"}, "configuration error: HOST=0.0.0.0 "),  # noqa: S104
        ({"DATABASE_URL": "mysql://nowhere"}, "configuration error: DATABASE_URL: "),
        ({"OWNER_DATABASE_URL": "postgresql://nowhere"}, "configuration error: OWNER_DATABASE_URL needs DATABASE_URL"),
        (
            {"DATABASE_URL": "postgresql://nowhere", "OWNER_DATABASE_URL": "mysql://nowhere"},
            "configuration error: OWNER_DATABASE_URL: ",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    tmp_path: Path, runs: list[Run], settings: dict[str, str], complaint: str
) -> None:
    runs.append(run := Run(tmp_path, settings=settings))
    output = run.output()
    assert output.startswith(complaint)
    assert output.count("\n") == 1
    assert run.process.returncode == 2
    assert not (tmp_path / "postgres").exists()


def test_a_taken_port_is_one_line(tmp_path: Path, runs: list[Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        runs.append(run := Run(tmp_path, settings={"PORT": port}))
        assert run.output() == f"make run: cannot listen on PORT={port} of HOST=127.0.0.1: Address already in use\n"
    assert run.process.returncode == 1


@pytest.mark.long  # it says so only after a while
def test_a_migration_that_lasts_is_waited_for(tmp_path: Path, runs: list[Run], empty_database_url: str) -> None:
    said = tmp_path / "logs" / "stack.log"
    with bounded_engine(empty_database_url) as engine, alone(engine):
        runs.append(run := Run(tmp_path, settings={"DATABASE_URL": empty_database_url}))
        assert wait_for(lambda: said.exists() and "is still being prepared, see " in said.read_text(), PATIENCE_S)
        assert "waiting for another who changes the schema" in (tmp_path / "logs" / "prepare.log").read_text()
    run.wait_until_up()
    assert run.finish() == 0


def test_a_stop_while_the_database_is_waited_for_is_orderly(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path, settings={"DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none"}))
    assert wait_for((tmp_path / "run" / "prepare.pid").exists, PATIENCE_S)
    assert run.finish() == 0
    assert not list((tmp_path / "run").glob("*.pid"))
