"""However many ask and wait, each process has its connections and no more, and workers always have theirs."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests.chaos.client import Client
from tests.chaos.faults.storm import DB_CONNECTIONS, count_connections, hold_lock, read, transfer
from tests.ops.local.test_servers import ask
from tests.ops.local.test_stack import Run, get
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.stack, pytest.mark.long]
CALLERS = 24
CALLS = 20
PENDING = "SELECT count(*)::text FROM transfers WHERE status = 'pending'"
POSTED = "SELECT count(*)::text FROM transfers WHERE status = 'posted' AND kind = 'transfer'"


@contextmanager
def started(home: Path, **settings: str) -> Iterator[Run]:
    """A stack with two processes of the API and two workers."""
    run = Run(home, settings={"API_PROCESSES": "2", "WORKERS": "2", "RATE_LIMIT": "off", **settings})
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def limited_role(server: PostgresServer, owner_url: str, connections: int) -> dict[str, str]:
    """Make a role that may have so many connections, and return the settings to serve as it."""
    role, parts = f"few_{secrets.token_hex(4)}", urlsplit(owner_url)
    with closing(psycopg2.connect(server.admin_url)) as admin, admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT {connections}")
    service = f"postgresql://{role}:few@{parts.hostname}:{parts.port}{parts.path}"
    return {"DATABASE_URL": service, "OWNER_DATABASE_URL": owner_url}


def test_a_lock_storm_leaves_each_process_its_connections_and_no_more(tmp_path: Path) -> None:
    with started(tmp_path / "home") as run:
        url = run.wait_until_up()["postgres"]["url"]
        for _ in range(2):
            for storm in (transfer, read):
                answers = hold_lock(url, int(run.port), storm)
                assert set(answers) <= {404, 503}
                found = count_connections(url)
                assert 0 < found["wallet-api"] <= 2 * DB_CONNECTIONS
                assert 0 < found["wallet-worker"] <= 2 * DB_CONNECTIONS
        for _ in range(10):
            assert get(run, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
            assert transfer(int(run.port), 5) == 404
        assert run.finish() == 0


def test_a_role_of_twenty_connections_is_enough_for_many_callers_and_all_is_settled(
    postgres_server: PostgresServer, empty_database_url: str, tmp_path: Path
) -> None:
    """With what the API takes at most, workers still have theirs."""
    settings = limited_role(postgres_server, empty_database_url, 20)
    with started(tmp_path / "home", **settings) as run:
        run.wait_until_up()

        def call(caller: int) -> list[int]:
            client = Client(f"caller{caller}", int(run.port), users=(1, 2), seed=caller)
            user = 1 + caller % 2
            path = f"/api/transfer/v{user}"
            body = {"amount": 1, "destination_user_id": 3 - user}
            statuses = [client.ask(user, "POST", path, body, f"{caller}-{n}")[0] for n in range(CALLS)]
            client.close()
            return statuses

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = [status for statuses in pool.map(call, range(CALLERS)) for status in statuses]
        assert (answers.count(200), answers.count(202)) == (CALLERS // 2 * CALLS, CALLERS // 2 * CALLS)
        assert wait_for(lambda: ask(empty_database_url, PENDING) == "0", PATIENCE_S)
        assert ask(empty_database_url, POSTED) == str(CALLERS * CALLS)
        assert run.finish() == 0


def test_a_role_whose_limit_leaves_workers_none_is_told_in_one_line(
    postgres_server: PostgresServer, empty_database_url: str, tmp_path: Path
) -> None:
    settings = limited_role(postgres_server, empty_database_url, 10)
    with started(tmp_path / "home", **settings) as run:
        (line,) = (line for line in run.output().splitlines() if "error" in line)
        assert run.process.returncode == 2
        assert line.startswith("configuration error: DB_CONNECTIONS: the role allows 10 connections")
