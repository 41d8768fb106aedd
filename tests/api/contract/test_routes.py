"""Schemathesis makes requests out of the document, good and bad ones, and checks every answer against it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine

from tests.api.calls import ADMIN, DEPOSIT, MOVES, TRANSFER_LATER
from tests.api.server import Gunicorn, gunicorn
from tests.conftest import ADMIN_PASSWORD
from tests.nursery import Forked
from tests.project import ROOT

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
# Not among the numbers that generators like: whoever is paid by alice may see her job, and must not be bob.
ALICE, BOB = 7_123_456_789_012, 7_123_456_789_013
TIMEOUT_S = 600.0


@pytest.fixture
def environment(database_url: str, redis_url: str, engine: Engine, redis_client: redis.Redis) -> dict[str, str]:
    """What the processes of a service on empty servers are told."""
    del engine, redis_client
    secret = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "ADMIN_PASSWORD": ADMIN_PASSWORD}
    return secret | {"RATE_LIMIT": "off"}


@pytest.fixture
def server(tmp_path: Path, environment: dict[str, str], bury: Callable[[str], None]) -> Iterator[Gunicorn]:
    """A server and a worker, wallets for alice, bob and user 2 (whom the document's examples pay), and dead letters."""
    with gunicorn(tmp_path / "api.log", **environment) as server:
        for user in (ALICE, BOB, 2):
            assert server.move(DEPOSIT, {"amount": 10**12}, user=user).status == 200
        for _ in range(20):
            bury(server.move(TRANSFER_LATER, MOVES[TRANSFER_LATER], user=ALICE).json["job_id"])
        with worker(tmp_path / "worker.log", environment):
            yield server


@contextmanager
def worker(path: Path, environment: dict[str, str]) -> Iterator[None]:
    """A worker, so that whoever waits for a job is not left waiting."""
    with path.open("wb") as log:
        process = Forked([sys.executable, "worker.py"], cwd=ROOT, env=inherited() | environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()


def inherited() -> dict[str, str]:
    """Return what a process needs of our environment."""
    return {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """The callers, as a document of the Web Fuzzing Commons."""
    values = {"alice": str(ALICE), "bob": str(BOB), "administrator": ADMIN}
    path = tmp_path / "credentials.json"
    path.write_text(
        json.dumps(
            {
                "auth": [
                    {"name": name, "fixedHeaders": [{"name": "Authorization", "value": value}]}
                    for name, value in values.items()
                ]
            }
        )
    )
    return path


@pytest.mark.long  # with CI's many examples
@pytest.mark.timeout(TIMEOUT_S)
def test_the_service_does_what_its_document_says(server: Gunicorn, credentials: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(CONFIGURATION),
            "run",
            f"{base}/openapi.json",
            "--checks",
            "all",
            "--phases",
            "examples,coverage,fuzzing,stateful",
            "--max-examples",
            str(hypothesis_settings().max_examples // 2),
        ],
        env=inherited() | {"CREDENTIALS": str(credentials), "NO_COLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
