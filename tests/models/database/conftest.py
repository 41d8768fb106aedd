"""A primary and its standby, for tests of which server is taken."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests.patience import PATIENCE_S


@pytest.fixture(scope="session")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of these tests' own."""
    with PostgresServer(tmp_path_factory.mktemp("primary")) as server:
        yield server


@pytest.fixture(scope="session")
def standby(primary: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Its standby, as pg_basebackup makes them."""
    home = tmp_path_factory.mktemp("standby")
    server = PostgresServer(home)
    server.prepare()
    shutil.copytree(primary.home / "secrets", home / "secrets", dirs_exist_ok=True)
    command = [str(primary.program.with_name("pg_basebackup")), "-D", str(server.data), "-R", "-cfast", "-d"]
    subprocess.run([*command, primary.admin_url], check=True, capture_output=True)
    if server.identity == "nobody":
        subprocess.run(["chown", "-R", "nobody:", str(server.data)], check=True)
    server.launch()
    try:
        assert wait_for(server.is_ready, PATIENCE_S)
        yield server
    finally:
        server.stop()
