"""``flask doctor``: a line for each check, an exit status to go by, and never a password."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from grpc_health.v1 import health_pb2
from sqlalchemy import Engine

from api.commands import doctor
from api.settings import current_settings
from jobs.connections import connect_worker_redis, count_wanted
from jobs.retries import RetryPolicy
from jobs.rq.worker import BatchWorker
from jobs.settler import Settler
from tests.api.calls import accept
from tests.api.commands.conftest import Process, Runner, held_nodes
from tests.api.conftest import AppMaker
from tests.api.grpc.healthy import grpc_server
from tests.certificates import make_certificate
from tests.proxy import TcpProxy

GIB = 1 << 30


@pytest.fixture
def worker(engine: Engine, redis_client: redis.Redis, redis_url: str) -> Iterator[BatchWorker]:
    """A worker that has said that it lives."""
    del redis_client  # asked for to be emptied
    with connect_worker_redis(redis_url) as client:
        worker = BatchWorker(client, Settler(engine, RetryPolicy((1.0,))), batch_size=1)
        worker.register_birth()
        yield worker


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A WALLET_HOME that is not there unless the test makes it."""
    home = tmp_path / "home"
    monkeypatch.setenv("WALLET_HOME", str(home))
    return home


def found(run: Runner, app: Flask | None = None) -> tuple[int, dict[str, str]]:
    """Return the exit status, and each check's level by its name, those left out that are ok."""
    result = run("doctor", "--json", app=app)
    checks = json.loads(result.stdout)["checks"]
    return result.exit_code, {each["name"]: each["level"] for each in checks if each["level"] != "ok"}


def test_when_all_is_well_it_says_so_line_by_line(run: Runner, worker: BatchWorker) -> None:
    del worker
    result = run("doctor")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok   ") for line in lines)
    assert result.stderr == f"{len(lines)} ok, 0 warn, 0 FAIL\n"
    assert json.loads(run("doctor", "--json").stdout)["level"] == "ok"


def test_it_changes_nothing(run: Runner, worker: BatchWorker, engine: Engine, redis_client: redis.Redis) -> None:
    del worker
    before = held_nodes(engine), sorted(redis_client.keys())
    run("doctor")
    assert (held_nodes(engine), sorted(redis_client.keys())) == before


def test_a_warning_is_no_failure(run: Runner, worker: BatchWorker, funded: FlaskClient, bury: object) -> None:
    del worker
    bury(accept(funded))  # type: ignore[operator]
    assert found(run)[1] == {"dead letters": "warn"}
    result = run("doctor")
    (line,) = (line for line in result.stdout.splitlines() if not line.startswith("ok"))
    assert (result.exit_code, line) == (
        0,
        "warn dead letters: 1 — flask dead-letters list, then flask dead-letters requeue",
    )
    assert json.loads(run("doctor", "--json").stdout)["level"] == "warn"


def test_without_workers_it_fails(run: Runner) -> None:
    assert found(run) == (1, {"workers": "FAIL"})


def test_servers_that_are_down_are_named_and_what_else_there_is_is_checked(
    run: Runner, make_app: AppMaker, postgres_proxy: TcpProxy, redis_proxy: TcpProxy, home: Path
) -> None:
    home.mkdir()
    app = make_app(database_url=postgres_proxy.url, redis_url=redis_proxy.url)
    postgres_proxy.refuse()
    redis_proxy.refuse()
    assert found(run, app) == (1, {"postgres": "FAIL", "redis": "FAIL"})


def test_more_processes_than_the_server_takes_are_counted(run: Runner, make_app: AppMaker, worker: BatchWorker) -> None:
    del worker
    assert found(run, make_app(api_processes=6, db_connections=32)) == (0, {"connections": "warn"})


def test_those_of_grpc_are_counted_unless_there_are_none(make_app: AppMaker) -> None:
    def wanted(**settings: object) -> tuple[int, int]:
        with make_app(db_connections=6, api_processes=2, **settings).app_context():
            return count_wanted(current_settings(), workers=2)

    behind = 2 * 6 + 2 * 4  # workers, and who sends webhooks
    assert wanted(grpc_port="off") == (2 * 7, behind)
    assert wanted(grpc_port=1, grpc_processes=3) == (2 * 7 + 3 * 6, behind)


def grpc_line(run: Runner, app: Flask | None = None) -> str:
    (line,) = (line for line in run("doctor", app=app).stdout.splitlines() if " grpc: " in line)
    return str(line)


def write_state(home: Path, state: dict[str, object]) -> None:
    (home / "run").mkdir(parents=True, exist_ok=True)
    path = home / "run" / "stack.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(state))


def test_grpc_that_is_off_is_no_trouble(run: Runner) -> None:
    assert grpc_line(run) == "ok   grpc: off"


def test_grpc_answers_or_does_not(run: Runner, make_app: AppMaker) -> None:
    with grpc_server() as server:
        app = make_app(grpc_port=server.port)
        assert grpc_line(run, app) == f"ok   grpc: answers at 127.0.0.1:{server.port}"
        server.say(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert grpc_line(run, app).startswith(f"warn grpc: does not serve at 127.0.0.1:{server.port} — ")
    assert grpc_line(run, app).startswith(f"warn grpc: does not answer at 127.0.0.1:{server.port} — ")


def test_grpc_of_the_stack_that_runs_here_is_asked_wherever_it_is(run: Runner, make_app: AppMaker, home: Path) -> None:
    app = make_app(grpc_port=1)
    write_state(home, {})
    assert grpc_line(run, app) == "ok   grpc: off"
    with grpc_server() as server:
        write_state(home, {"grpc": {"target": f"127.0.0.1:{server.port}", "pids": [1]}})
        assert grpc_line(run, app) == f"ok   grpc: answers at 127.0.0.1:{server.port}"
    assert grpc_line(run, app).startswith(f"FAIL grpc: does not answer at 127.0.0.1:{server.port} — ")
    write_state(home, {"grpc": {"target": "[::1]:1", "pids": [1]}})
    assert grpc_line(run, app).startswith("FAIL grpc: does not answer at [::1]:1 — ")
    (home / "run" / "stack.json").write_text("{")
    assert grpc_line(run, app).startswith("warn grpc: does not answer at 127.0.0.1:1 — ")


def test_tokens_that_leave_this_machine_in_plain_text_are_a_warning(
    run: Runner, make_app: AppMaker, tmp_path: Path
) -> None:
    by_token = {"auth_mode": "jwt", "jwt_secret": "x" * 32}
    with grpc_server() as server:
        told = by_token | {"grpc_port": server.port}
        app = make_app(host="0.0.0.0", **told)  # noqa: S104
        where = f"answers at 127.0.0.1:{server.port}"
        assert grpc_line(run, app).startswith(f"warn grpc: {where}, and on HOST=0.0.0.0 tokens come in plain text — ")
        assert grpc_line(run, make_app(**told)) == f"ok   grpc: {where}"
    with grpc_server(make_certificate(tmp_path)) as server:
        app = make_app(host="0.0.0.0", grpc_port=server.port, **by_token)  # noqa: S104
        assert grpc_line(run, app) == f"ok   grpc: answers with TLS at 127.0.0.1:{server.port}"


def test_a_disk_that_fills_up_is_named(
    run: Runner, worker: BatchWorker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del worker
    home.mkdir()
    for free, level in ((2 * GIB, "ok"), (GIB, "warn"), (GIB // 100, "FAIL")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert found(run)[1].get("disk", "ok") == level


def test_secrets_that_others_can_read_are_named(run: Runner, worker: BatchWorker, home: Path) -> None:
    del worker
    (home / "secrets").mkdir(parents=True)
    (home / "run").mkdir()
    files = [home / "secrets" / "redis", home / "secrets" / "admin_password", home / "run" / "stack.json"]
    for file in files:
        file.touch(mode=0o600)
    assert found(run) == (0, {})
    files[0].chmod(0o640)
    files[2].chmod(0o604)
    assert found(run) == (1, {"secrets": "FAIL"})
    (line,) = (line for line in run("doctor").stdout.splitlines() if "secrets:" in line)
    assert line == f"FAIL secrets: 2 files can be read by others — chmod 600 {files[0]} {files[2]}"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u@db.example.org:5433/d", "db.example.org:5433"),
        ("postgres://u@one:1,two:2/d", "one:1, two:2"),
        ("postgresql:///d?user=u&password=hunter2&host=one", "one"),
        ("postgresql://u@/d?host=/run/postgresql", "a local socket"),
    ],
)
def test_servers_are_named_as_the_driver_reads_their_urls(make_app: AppMaker, url: str, address: str) -> None:
    app = make_app(database_url=url, cache_redis_url="rediss://:hunter2@cache.example.org/1")
    with app.app_context():
        found = doctor._settings(current_settings()).what
    assert found.startswith(f"postgresql at {address}, redis at 127.0.0.1:")
    assert found.endswith(", cache: rediss at cache.example.org")


def test_a_cache_that_is_away_is_a_warning(run: Runner, make_app: AppMaker, worker: BatchWorker) -> None:
    del worker
    assert found(run, make_app(cache_redis_url="redis://127.0.0.1:1")) == (0, {"cache": "warn"})


def test_no_password_is_ever_shown(flask: Process) -> None:
    urls = {
        "DATABASE_URL": "postgresql://hunter1:hunter2%40x@127.0.0.1:1/hunter3?application_name=hunter2%40x",
        "REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
        "CACHE_REDIS_URL": "redis://127.0.0.1:1/0?password=hunter2",
        "ADMIN_PASSWORD": "hunter2",
    }
    for arguments in (("doctor",), ("doctor", "--json")):
        ended = flask(*arguments, **urls)
        assert ended.returncode == 1
        assert "hunter2" not in ended.stdout + ended.stderr
        assert ended.stdout.count("FAIL") >= 2
        assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_one_line(flask: Process) -> None:
    urls = {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:port/d", "REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}
    ended = flask("doctor", **urls)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("configuration error: DATABASE_URL: ")
    assert "hunter2" not in ended.stderr
