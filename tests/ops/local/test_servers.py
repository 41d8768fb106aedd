"""The embedded servers: usable by whoever starts them, alone, and with their data kept."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis

from ops.local.processes import StackError, process_identity, wait_for
from ops.local.server import is_port_free
from ops.local.servers import PostgresServer, RedisServer, parse_postgres_line, parse_valkey_line
from tests.patience import PATIENCE_S
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("servers")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Deep, and with spaces: neither may matter.
    return tmp_path_factory.mktemp("servers") / "a home" / ("x" * 100)


@pytest.fixture(scope="module")
def postgres(home: Path) -> Iterator[PostgresServer]:
    with PostgresServer(home) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "a home") as server:
        yield server


def ask(url: str, query: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def is_gone(pid: int) -> bool:
    return not process_identity(pid)


def test_postgres_belongs_to_the_wallet_role_which_is_no_superuser(postgres: PostgresServer) -> None:
    assert ask(postgres.url, "SELECT current_user || ' ' || current_database()") == "wallet wallet"
    assert ask(postgres.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'wallet'"
    assert ask(postgres.url, owner) == "wallet"


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"])
def test_postgres_keeps_what_it_confirmed(postgres: PostgresServer, setting: str) -> None:
    assert ask(postgres.url, f"SHOW {setting}") == "on"


def test_postgres_refuses_a_wrong_password(postgres: PostgresServer) -> None:
    wrong = postgres.url.replace(postgres.secret("postgres_wallet"), "wrong")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(wrong)


def test_postgres_counts_statements(postgres: PostgresServer) -> None:
    assert ask(postgres.url, "SELECT count(*) > 0 FROM pg_stat_statements") is True


def test_the_servers_are_reached_on_loopback_only(postgres: PostgresServer) -> None:
    assert ask(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(postgres.url, "SHOW unix_socket_directories") == ""


def test_secrets_are_for_their_owner_only(postgres: PostgresServer, home: Path) -> None:
    assert (home / "secrets" / "postgres_wallet").read_text() == postgres.secret("postgres_wallet")
    for path in (home / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "secrets").stat().st_mode) == 0o700


def test_no_command_line_shows_a_password(redis_server: RedisServer, postgres: PostgresServer) -> None:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert redis_server.secret("redis") not in shown
    assert postgres.secret("postgres_superuser") not in shown


def test_every_line_of_a_log_is_a_json_object(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg2.errors.UndefinedTable):
        ask(postgres.url, "SELECT 1\nFROM nowhere")
    lines: list[dict[str, object]] = []

    def has_error() -> bool:
        lines[:] = [json.loads(line) for line in postgres.log.read_text().splitlines()]
        return any(line.get("sqlstate") == "42P01" for line in lines)

    assert wait_for(has_error, PATIENCE_S)
    assert all({"time", "level", "event", "service"} <= line.keys() for line in lines)


def test_postgres_has_its_data_and_port_after_a_kill(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        url, pid = server.url, server.pid
        server.send(signal.SIGKILL)
        assert server.wait(5)
        server.start()
        assert (server.url, server.pid) != (url, pid)
        assert server.url == url
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_redis_has_its_data_after_a_stop_and_a_kill(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("kept", "42")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("append*")["appendonly"] == "yes"
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0
    redis_server.stop()
    redis_server.start()
    redis_server.kill()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("kept") == b"42"


def test_redis_refuses_whoever_has_no_password(redis_server: RedisServer) -> None:
    with (
        redis.Redis.from_url(f"redis://127.0.0.1:{redis_server.port}") as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_taken_port_is_replaced_and_a_given_one_is_not(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        port = server.port
        assert 20_000 <= port < 32_000
    with socket.create_server(("127.0.0.1", port)):
        with RedisServer(tmp_path) as server:
            assert server.port != port
        with pytest.raises(StackError, match=r"redis did not start: Failed listening on port"):
            RedisServer(tmp_path, port=port).start()
    assert not (tmp_path / "run" / "redis.pid").exists()


def test_a_killed_parent_takes_its_servers_along_and_the_next_start_has_the_data(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ops.local.servers import *; home = Path(sys.argv[1])\n"
        "print(PostgresServer(home).start().pid, RedisServer(home).start().pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    # Started at once, while the old ones may still be on their way out.
    with PostgresServer(tmp_path) as postgres, RedisServer(tmp_path) as redis_server:
        assert all(is_gone(pid) for pid in pids)
        assert ask(postgres.url, "SELECT 1") == 1
        assert redis_server.is_ready()


def test_a_pid_file_of_a_finished_process_harms_nobody_who_has_its_pid_now(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        pid_file = tmp_path / "run" / "redis.pid"
        assert pid_file.read_text().split()[0] == str(server.pid)
    pid_file.write_text(f"{os.getpid()} another-boot:1\n")
    with RedisServer(tmp_path) as server:
        assert server.is_running


def test_a_lost_password_is_named(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        pass
    (tmp_path / "secrets" / "postgres_superuser").write_text("another")
    with pytest.raises(StackError, match=r"the password in .* is not that of its data"):
        server.start()
    assert not server.is_running


def test_a_port_is_free_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not is_port_free("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (
            "12 42P01 ERROR:  no such table",
            {"level": "error", "event": "no such table", "pid": 12, "sqlstate": "42P01"},
        ),
        ("12 00000 LOG:  ready", {"level": "info", "event": "ready", "pid": 12, "sqlstate": "00000"}),
        ("\tFROM nowhere", {"level": "info", "event": "\tFROM nowhere"}),
    ],
)
def test_lines_of_postgres(line: str, record: dict[str, object]) -> None:
    assert parse_postgres_line(line) == record


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("7:M 23 Nov 2026 14:47:47.223 * Ready", {"level": "info", "event": "Ready", "pid": 7}),
        ("7:M 23 Nov 2026 14:47:47.223 # Oh no", {"level": "warning", "event": "Oh no", "pid": 7}),
        ("*** FATAL CONFIG FILE ERROR ***", {"level": "info", "event": "*** FATAL CONFIG FILE ERROR ***"}),
    ],
)
def test_lines_of_valkey(line: str, record: dict[str, object]) -> None:
    assert parse_valkey_line(line) == record
