"""The gRPC processes of ``make run``: there when it is ready, replaced when they die, and alone on their port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from ops.local.processes import IS_LINUX, process_identity, wait_for
from ops.local.turns import Turns
from tests.certificates import make_certificate
from tests.ops.local.test_port_guard import if_ipv6
from tests.ops.local.test_stack import Run, are_gone, environment_of, free_port, pids_in
from tests.patience import PATIENCE_S
from tests.project import ROOT
from wallet.v1 import wallet_pb2, wallet_pb2_grpc

pytestmark = pytest.mark.stack
together = pytest.mark.xdist_group("grpc stack")
if_proc = pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
SERVING = health_pb2.HealthCheckResponse.SERVING
WATCHERS = 60
# What the library would read by itself.
OF_THE_LIBRARY = {"GRPC_VERBOSITY": "debug", "grpc_trace": "all"}


def serves(target: str) -> bool:
    """Whether whoever is connected to there says so."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(target, options=options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            return bool(check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status == SERVING)
        except grpc.RpcError:
            return False


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def grpc_pids(run: Run) -> list[int]:
    return list(run.state()["grpc"]["pids"])


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Runs that end with the test."""
    started: list[Run] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run for tests that leave it as it was."""
    home = tmp_path_factory.mktemp("home")
    run = Run(home, settings={"GRPC_PORT": str(free_port()), "WORKERS": "0", **OF_THE_LIBRARY})
    try:
        run.wait_until_up()
        yield run
        assert run.finish() == 0
    finally:
        run.process.kill()
        run.process.communicate()


@together
def test_when_it_is_ready_every_connection_is_served(shared: Run) -> None:
    told = shared.state()["grpc"]
    assert told["target"] == f"127.0.0.1:{shared.settings['GRPC_PORT']}"
    assert len(told["pids"]) == 2
    assert all(serves(told["target"]) for _ in range(8))


@together
@if_proc
def test_they_know_what_the_api_knows_and_nothing_of_the_librarys_own(shared: Run) -> None:
    password = (shared.home / "secrets" / "admin_password").read_text()
    for pid in grpc_pids(shared):
        told = environment_of(pid)
        assert told["ADMIN_PASSWORD"] == password
        assert told["PROMETHEUS_MULTIPROC_DIR"] == str(shared.home / "run" / "metrics")
        assert {name: value for name, value in told.items() if name.upper().startswith("GRPC_")} == {
            "GRPC_PORT": shared.settings["GRPC_PORT"],
            "GRPC_PROCESSES": "2",
        }


@together
@if_proc
def test_their_supervisor_has_no_use_for_the_library(shared: Run) -> None:
    assert "cygrpc" not in Path(f"/proc/{shared.process.pid}/maps").read_text()
    assert "cygrpc" in Path(f"/proc/{grpc_pids(shared)[0]}/maps").read_text()


@together
def test_one_that_is_killed_is_replaced_and_the_other_goes_on(shared: Run) -> None:
    killed, other = grpc_pids(shared)
    os.kill(killed, signal.SIGKILL)
    assert wait_for(lambda: killed not in grpc_pids(shared), PATIENCE_S)
    assert grpc_pids(shared)[1] == other
    with closing(Turns(shared.home / "run" / "grpc")) as turns:
        assert wait_for(lambda: turns.count_serving() == 2, PATIENCE_S)
    assert serves(shared.state()["grpc"]["target"])


@together
def test_of_those_that_are_reloaded_together_one_at_a_time_is_gone(shared: Run) -> None:
    before = set(grpc_pids(shared))
    with closing(Turns(shared.home / "run" / "grpc")) as turns:
        assert wait_for(lambda: turns.count_serving() == 2, PATIENCE_S)
        seen = set()

        def are_replaced() -> bool:
            seen.add(turns.count_serving())
            return not before & set(grpc_pids(shared)) and turns.count_serving() == 2

        for pid in before:
            os.kill(pid, signal.SIGHUP)
        assert wait_for(are_replaced, PATIENCE_S)
        assert seen <= {1, 2}
    assert serves(shared.state()["grpc"]["target"])


@together
def test_a_second_run_with_their_port_is_refused_in_one_line(shared: Run, runs: list[Run], tmp_path: Path) -> None:
    port = shared.settings["GRPC_PORT"]
    runs.append(second := Run(tmp_path, settings={"GRPC_PORT": port}))
    said = f"make run: cannot listen on GRPC_PORT={port} of HOST=127.0.0.1: Address already in use\n"
    assert (second.output(), second.process.returncode) == (said, 1)
    assert not (tmp_path / "postgres").exists()
    assert serves(shared.state()["grpc"]["target"])


@together
def test_a_stranger_who_shares_ports_is_found_as_well(tmp_path: Path, runs: list[Run]) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = str(stranger.getsockname()[1])
        runs.append(run := Run(tmp_path, settings={"GRPC_PORT": port}))
        assert run.output().startswith(f"make run: cannot listen on GRPC_PORT={port} of HOST=127.0.0.1: ")
    assert run.process.returncode == 1


def test_a_killed_supervisor_leaves_none_and_the_next_run_has_the_port(tmp_path: Path, runs: list[Run]) -> None:
    settings = {"GRPC_PORT": str(free_port()), "GRPC_PROCESSES": "1", "WORKERS": "0"}
    runs.append(run := Run(tmp_path, settings=settings))
    pids = pids_in(run.wait_until_up())
    run.process.kill()
    assert wait_for(lambda: are_gone(pids), PATIENCE_S)
    runs.append(again := Run(tmp_path, settings=settings))
    (pid,) = again.wait_until_up()["grpc"]["pids"]
    assert serves(again.state()["grpc"]["target"])
    assert again.finish() == 0
    assert not process_identity(pid)
    assert not listens(int(settings["GRPC_PORT"]))


def test_a_full_stop_waits_for_no_watcher(tmp_path: Path, runs: list[Run]) -> None:
    """Each watches a job that does not end, and would be there as long as a call may last."""
    settings = {"GRPC_PORT": str(free_port()), "WORKERS": "0", "GRACEFUL_TIMEOUT_S": str(int(2 * PATIENCE_S))}
    runs.append(run := Run(tmp_path, settings=settings))
    target = run.wait_until_up()["grpc"]["target"]
    caller = (("authorization", "1"),)
    with ExitStack() as open_channels:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        channels = [open_channels.enter_context(grpc.insecure_channel(target, options=options)) for _ in range(6)]
        stubs = [wallet_pb2_grpc.WalletServiceStub(channel) for channel in channels]
        payment = wallet_pb2.TransferRequest(destination_user_id=2, amount=1)
        job = wallet_pb2.JobRequest(
            job_id=stubs[0].EnqueueTransfer(payment, metadata=caller, timeout=PATIENCE_S).job_id
        )
        watches = [stub.WatchJob(job, metadata=caller) for stub in stubs for _ in range(WATCHERS // len(stubs))]
        assert all(next(watch).job_id == job.job_id for watch in watches)
        began = time.monotonic()
        assert run.finish() == 0
        assert time.monotonic() - began < PATIENCE_S
        assert {watch.code() for watch in watches} == {grpc.StatusCode.UNAVAILABLE}


@if_ipv6
def test_an_ipv6_host_stands_in_brackets(tmp_path: Path, runs: list[Run]) -> None:
    port = str(free_port())
    runs.append(run := Run(tmp_path, settings={"HOST": "::1", "GRPC_PORT": port, "WORKERS": "0"}))
    assert run.wait_until_up()["grpc"]["target"] == f"[::1]:{port}"
    assert serves(f"[::1]:{port}")
    run.process.terminate()
    assert f"\n  gRPC            [::1]:{port}\n" in run.output()
    assert run.process.returncode == 0


def test_with_off_there_are_none(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path, settings={"GRPC_PORT": "off", "WORKERS": "0"}))
    assert "grpc" not in run.wait_until_up()
    assert not list((tmp_path / "run").glob("grpc*"))
    run.process.terminate()
    assert "gRPC" not in run.output()


@pytest.mark.parametrize("name", ["GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA"])
def test_a_certificate_that_is_none_ends_the_start_with_one_line(tmp_path: Path, runs: list[Run], name: str) -> None:
    pem = make_certificate(tmp_path)
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate\n")
    settings = {"GRPC_PORT": str(free_port()), "WORKERS": "0"}
    settings |= {"GRPC_TLS_CERT": str(pem), "GRPC_TLS_KEY": str(pem), name: str(wrong)}
    runs.append(run := Run(tmp_path / "home", settings=settings))
    *_, last = run.output().splitlines()
    assert run.process.returncode == 2
    # Of a pair that is none, either may be the wrong one.
    assert last.startswith("configuration error: GRPC_TLS_")
    assert name in last


def test_whoever_supervises_does_not_load_the_library() -> None:
    script = "import sys, ops.local.stack, ops.grpc.master; print('grpc' in sys.modules)"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout == "False\n"
