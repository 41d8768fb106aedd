"""``make run`` while the disk that its home is on is full: what needs no disk goes on, all the rest comes back."""

import http.client
import json
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from ops.local.processes import process_identity, wait_for
from ops.local.servers import PostgresServer
from tests import small_disk
from tests.ops.local.test_stack import Run, pids_in
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.stack
# PostgreSQL has less than 70 MB at its beginning.
SIZE = "150m"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home on a small file system of its own."""
    try:
        with small_disk.mounted(tmp_path / "home", size=SIZE, nr_inodes="5000") as home:
            yield home
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def start(home: Path, started: ExitStack, **settings: str) -> Run:
    run = Run(home, settings=settings)
    started.callback(run.process.communicate)
    started.callback(run.process.kill)
    return run


def call(run: Run, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Ask, and return status and answer; 0: nobody answers."""
    headers = {"Authorization": "1", "Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", int(run.port), timeout=30)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        return 0, {}


def deposits(run: Run) -> bool:
    return call(run, "POST", "/api/deposit/v1", {"amount": 1})[0] == 200


def accepts(run: Run) -> str:
    """Hand in a transfer, and return its id; empty: it was refused."""
    status, answer = call(run, "POST", "/api/transfer/v2", {"amount": 1, "destination_user_id": 2})
    return str(answer["job_id"]) if status == 202 else ""


def is_posted(run: Run, job_id: str) -> bool:
    return call(run, "GET", f"/api/jobs/v1/{job_id}")[1].get("status") == "posted"


def settles(run: Run) -> bool:
    """Whether a transfer that is handed in now is posted."""
    job_id = accepts(run)
    return bool(job_id) and wait_for(lambda: is_posted(run, job_id), PATIENCE_S)


def kill_ours(run: Run) -> set[int]:
    """Kill the API and the worker, as the file says who they are."""
    state = run.state()
    pids = {state["api"]["pid"], state["workers"][0]["pid"]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not any(map(process_identity, pids)), PATIENCE_S)
    return pids


def test_with_servers_elsewhere_processes_are_replaced_and_serve_while_the_disk_is_full(
    home: Path, started: ExitStack, empty_database_url: str, redis_url: str
) -> None:
    run = start(home, started, DATABASE_URL=empty_database_url, REDIS_URL=redis_url, RATE_LIMIT="off")
    run.wait_until_up()
    with small_disk.full(home):
        assert deposits(run)
        assert settles(run)
        killed = kill_ours(run)
        assert wait_for(lambda: deposits(run), PATIENCE_S)
        assert settles(run)
        assert run.process.poll() is None
    assert wait_for(lambda: not killed & pids_in(run.state()), PATIENCE_S)
    assert wait_for(lambda: call(run, "GET", "/readyz")[1].get("status") == "ready", PATIENCE_S)
    assert settles(run)
    assert run.finish() == 0


def test_with_servers_of_its_own_all_is_well_when_there_is_room_again(home: Path, started: ExitStack) -> None:
    run = start(home, started, RATE_LIMIT="off")
    state = run.wait_until_up()
    assert settles(run)
    with small_disk.full(home):
        killed = kill_ours(run)
        os.kill(state["postgres"]["pid"], signal.SIGKILL)
        os.kill(state["redis"]["pid"], signal.SIGKILL)
        assert wait_for(lambda: call(run, "GET", "/healthz")[0] == 200, PATIENCE_S)
        assert run.process.poll() is None
    assert wait_for(lambda: deposits(run), PATIENCE_S)
    assert settles(run)
    assert wait_for(lambda: not killed & pids_in(run.state()), PATIENCE_S)
    assert wait_for(lambda: call(run, "GET", "/readyz")[1].get("status") == "ready", PATIENCE_S)
    assert run.finish() == 0


def test_while_the_disk_of_redis_is_full_money_moves(home: Path, started: ExitStack, empty_database_url: str) -> None:
    run = start(home, started, DATABASE_URL=empty_database_url)
    run.wait_until_up()
    with small_disk.full(home):
        assert wait_for(lambda: call(run, "GET", "/readyz")[1].get("status") == "degraded", PATIENCE_S)
        balance = call(run, "GET", "/api/wallet/balance/v1")[1]["balance"]
        assert deposits(run)
        assert call(run, "GET", "/api/wallet/balance/v1")[1]["balance"] == balance + 1
        status, _ = call(run, "POST", "/api/transfer/v1", {"amount": 1, "destination_user_id": 2})
        assert status == 200
        job_id = accepts(run)
        assert job_id
        kill_ours(run)
        assert wait_for(lambda: deposits(run), PATIENCE_S)
    assert wait_for(lambda: is_posted(run, job_id), PATIENCE_S)
    assert wait_for(lambda: call(run, "GET", "/readyz")[1].get("status") == "ready", PATIENCE_S)
    assert run.finish() == 0


@pytest.mark.parametrize("has_data", [False, True])
def test_a_start_on_a_full_disk_is_one_line(home: Path, started: ExitStack, has_data: bool) -> None:
    if has_data:
        with PostgresServer(home):
            pass
    with small_disk.full(home):
        run = start(home, started)
        said = run.output().splitlines()
        assert run.process.returncode == 1
        assert [line for line in said if not line.startswith(("starting", "stop", "prep"))] == said[-1:]
        assert said[-1].startswith("make run: ")
        assert "No space left on device" in said[-1]


def test_a_home_that_was_there_before_can_be_started_on_and_stopped_on_while_the_disk_is_full(
    home: Path, started: ExitStack, empty_database_url: str, redis_url: str
) -> None:
    elsewhere = {"DATABASE_URL": empty_database_url, "REDIS_URL": redis_url, "RATE_LIMIT": "off"}
    before = start(home, started, **elsewhere)
    before.wait_until_up()
    assert before.finish() == 0
    with small_disk.full(home):
        run = start(home, started, **elsewhere)
        assert wait_for(lambda: deposits(run), PATIENCE_S)
        assert settles(run)
        assert not run.state_file.exists()
        assert run.finish() == 0
