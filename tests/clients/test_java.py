"""A client in Java, made of the proto by Maven's tools: what a running service answers is what the contract says."""

import os
import re
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import grpc
import jwt
import psycopg2
import pytest

from tests.clients.conftest import Stack, grpc_process, wait_until_ready
from tests.docs.pages import DOCS, REFERENCE, by_name, rows, section
from tests.docs.test_grpc import OF_REST_ONLY, SERVICE
from tests.project import ROOT
from wallet.v1.wallet_pb2 import BalanceRequest
from wallet.v1.wallet_pb2_grpc import WalletServiceStub
from wallet_client import WalletClient

REQUIRED = "REQUIRE_JAVA"
LEAST_JDK = 17
# From nothing it takes 13 s on two processors that do nothing else, 60 MB of downloads included.
BUILD_S = 240
# The network may fail, or be away for a moment. Each try begins where the last one ended.
BUILDS = 3
PAUSE_S = 10
RUN_S = 120
SECRET = "a secret of the tests, long enough for HS256"
# What a service in good health never says, unless an administrator has done something.
IN_TROUBLE = {"unavailable", "outcome_unknown", "wallet_frozen"}

pytestmark = [pytest.mark.stack, pytest.mark.long]


def _lacks() -> str | None:
    """What of Java is not here."""
    for program in ("mvn", "java", "javac"):
        if shutil.which(program) is None:
            return f"{program} is not on the PATH"
    said = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=False, timeout=60).stdout
    version = re.match(r"javac (\d+)", said)
    if version is None or int(version[1]) < LEAST_JDK:
        return f"javac is not of a JDK {LEAST_JDK} or newer"
    return None


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The client, built in a folder of its own."""
    if lacks := _lacks():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{lacks}, and {REQUIRED}=1")
        pytest.skip(f"{lacks} ({REQUIRED}=1 makes this a failure)")
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    folder = tmp_path / "docs" / "clients" / "java"
    shutil.copytree(DOCS / "clients" / "java", folder, ignore=shutil.ignore_patterns("target"))
    _build(folder)
    return folder / "target" / "wallet-client.jar"


def _build(folder: Path) -> None:
    # -U: what could not be had a moment ago is asked for again.
    command = ["mvn", "--batch-mode", "--quiet", "--no-transfer-progress", "-U", "package"]
    # A server that says nothing is given up on (Maven 3.8 and before, then those after).
    command += ["-Dmaven.wagon.rto=30000", "-Daether.connector.requestTimeout=30000"]
    said = ""
    for build in range(BUILDS):
        time.sleep(PAUSE_S * (build > 0))
        try:
            built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=BUILD_S)
        except subprocess.TimeoutExpired as error:
            said += f"{error}\n"
            continue
        if built.returncode == 0:
            return
        said += built.stdout + built.stderr
    pytest.fail(f"{BUILDS} builds have failed:\n{said}", pytrace=False)


def _run(client: Path, *arguments: str) -> list[str]:
    command = ["java", "-jar", str(client), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    checks = done.stdout.splitlines()
    assert checks[-1] == "ok"
    return checks


@pytest.mark.timeout(BUILDS * (BUILD_S + PAUSE_S) + 3 * RUN_S)
def test_all_that_the_contract_says_is_so_and_both_faces_agree_on_every_balance(client: Path, stack: Stack) -> None:
    checks = _run(client, stack.target) + _run_without_scope(client, stack)
    seen = {check.partition(":")[0] for check in checks}
    errors = by_name(rows(section(REFERENCE / "errors.md", "Error codes")), "code")
    assert set(errors) - seen == {*OF_REST_ONLY, *IN_TROUBLE}
    assert seen >= {"health", "reflection", *(method.name for method in SERVICE.methods)}
    wallets = _wallets(stack)
    assert len(wallets) >= 5  # users 1 and 2, and those of the client
    # Whose budget the client has spent has some again since: a process was started meanwhile.
    assert _by_rest(stack, wallets) == wallets
    assert _by_grpc(stack, wallets) == wallets


def _run_without_scope(client: Path, stack: Stack) -> list[str]:
    """See on the same books, by a process that wants tokens, that this one may not deposit."""
    token = jwt.encode({"sub": "1", "exp": int(time.time()) + 600}, SECRET, "HS256")
    settings = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "DEPOSIT_SCOPE": "wallet:deposit"}
    servers = {"DATABASE_URL": stack.state["postgres"]["url"], "REDIS_URL": stack.state["redis"]["url"]}
    with grpc_process(**settings, **servers) as target:
        with grpc.insecure_channel(target) as channel:
            wait_until_ready(channel)
        return _run(client, target, "--without-scope", token)


def _wallets(stack: Stack) -> dict[int, int]:
    with closing(psycopg2.connect(stack.state["postgres"]["url"])) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, balance FROM wallets")
        return dict(cursor.fetchall())


def _by_rest(stack: Stack, users: dict[int, int]) -> dict[int, int]:
    found = {}
    for user in users:
        with WalletClient(f"http://127.0.0.1:{stack.run.port}", user_id=user) as client:
            found[user] = client.balance().balance
    return found


def _by_grpc(stack: Stack, users: dict[int, int]) -> dict[int, int]:
    with grpc.insecure_channel(stack.target) as channel:
        service = WalletServiceStub(channel)
        ask = service.GetBalance
        return {user: ask(BalanceRequest(), metadata=(("authorization", str(user)),)).balance for user in users}
