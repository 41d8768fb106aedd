"""The containers: what can be told of them without an engine to run them."""

import ast
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import redis
import yaml
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn, parse_dsn
from rq import Worker
from sqlalchemy import make_url

from config import Settings
from jobs.rq.crew import transfers_queue
from observe import rounds
from observe.metrics_server import MetricsServer
from ops.compose import entry, health, prepare, secret_files
from ops.compose.secret_files import SECRETS, BadSecret
from ops.local.servers import REDIS_MAX_MEMORY, PostgresServer
from tests import nursery
from tests.api.grpc.healthy import grpc_server
from tests.certificates import make_certificate
from tests.project import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# Those of a profile are only there if asked for (tests/ops/monitoring).
SERVICES: dict[str, dict[str, Any]] = {
    name: service for name, service in COMPOSE["services"].items() if "profiles" not in service
}
OURS = ("api", "grpc", "worker", "webhooks", "secrets", "prepare")
SERVERS = ("postgres", "redis")
STAYING = ("api", "grpc", "worker", "webhooks", *SERVERS)
# A line of the Dockerfile, with those it goes on in.
INSTRUCTIONS: list[tuple[str, str]] = re.findall(
    r"^([A-Z]+) ((?:.*\\\n)*.*)$",
    re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE),
    re.MULTILINE,
)
NASTY = "a'\"\\ $HOME %41 @/:?#\N{LATIN SMALL LETTER E WITH ACUTE};--"
one_line = st.text(min_size=1).filter(str.isprintable)


def _instruction(name: str) -> str:
    return dict(INSTRUCTIONS)[name]  # the last of its name


def test_every_setting_reaches_the_service() -> None:
    passed = {*SERVICES["api"]["environment"], *(word.partition("=")[0] for word in shlex.split(_instruction("ENV")))}
    from_secrets = {"DATABASE_URL", "REDIS_URL", "ADMIN_PASSWORD", "JWT_SECRET", "KAFKA_SASL_PASSWORD"}
    assert {name.upper() for name in Settings.model_fields} <= passed | from_secrets


def test_who_callers_are_is_for_those_alone_to_know_who_serve_them() -> None:
    told = SERVICES["api"]["environment"]
    assert SERVICES["grpc"]["environment"] == told
    alone = {
        *("ADMIN_USER", "AUTH_MODE", "CORS_ORIGINS", "DEPOSIT_SCOPE", "TRUSTED_PROXIES"),
        *("JWT_AUDIENCE", "JWT_ISSUER", "JWT_JWKS_URL"),
    }
    for name in ("worker", "webhooks", "prepare"):
        others = dict(SERVICES[name]["environment"])
        # It believes nobody, so it may listen for those who ask for its metrics.
        assert others.pop("ALLOW_USER_ID_MODE") == "1"
        # How many workers have to find connections.
        assert others.pop("WORKERS", None) == ("${WORKERS:-2}" if name == "prepare" else None)
        assert others == {key: value for key, value in told.items() if key not in alone | {"ALLOW_USER_ID_MODE"}}
    assert alone <= told.keys()


def test_a_setting_that_is_not_given_keeps_the_services_own_default() -> None:
    unconditional = {name: value for name, value in SERVICES["api"]["environment"].items() if value is not None}
    assert unconditional == {
        "ALLOW_USER_ID_MODE": "${ALLOW_USER_ID_MODE:-1}",
        "DEMO_WALLETS": "${DEMO_WALLETS:-1}",
        "KAFKA_BROKERS": "${KAFKA_BROKERS:-kafka:9092}",
        "METRICS_PORT": "${METRICS_PORT:-9101}",
    }


def test_only_the_container_that_writes_the_secrets_is_told_them() -> None:
    told = {
        name for name, service in SERVICES.items() if {s.setting for s in SECRETS} & set(service.get("environment", {}))
    }
    assert told == {"secrets"}
    assert SERVICES["secrets"]["environment"] == dict.fromkeys((secret.setting for secret in SECRETS), None)


def test_the_secrets_cannot_be_changed_where_they_are_only_read() -> None:
    mounts = {
        name: volume for name in SERVICES for volume in SERVICES[name]["volumes"] if volume.startswith("secrets:")
    }
    assert mounts.pop("secrets") == f"secrets:{secret_files.FOLDER}"
    assert mounts == dict.fromkeys(
        ("api", "grpc", "worker", "webhooks", "redis", "prepare"), f"secrets:{secret_files.FOLDER}:ro"
    )


def test_nobody_but_the_preparation_can_be_the_superuser() -> None:
    mounts = {
        name: volume for name in SERVICES for volume in SERVICES[name]["volumes"] if volume.startswith("postgres-")
    }
    assert mounts == {
        "postgres": "postgres-socket:/var/run/postgresql",
        "prepare": f"postgres-socket:{prepare.SOCKET_FOLDER}",
    }
    assert SERVICES["prepare"]["restart"] == "no"
    assert SERVICES["prepare"]["command"] == ["python", "-m", "ops.compose.prepare"]
    assert all(entry.PREPARE not in SERVICES[name]["command"] for name in STAYING)


def test_those_who_serve_callers_are_the_user_whose_secrets_are_his_own() -> None:
    users = {name: SERVICES[name].get("user", _instruction("USER")) for name in OURS}
    own, other = "10001:10001", f"10002:{secret_files.SERVICE_GROUP}"
    assert users == {"api": own, "grpc": own, "secrets": own, "worker": other, "webhooks": other, "prepare": other}
    assert {secret.setting for secret in SECRETS if secret.group is None} == {"ADMIN_PASSWORD", "JWT_SECRET"}
    made = " ".join(arguments for name, arguments in INSTRUCTIONS if name == "RUN")
    for user in (own, other):
        uid, gid = user.split(":")
        assert f"useradd --uid {uid} --gid {gid} " in made


def test_redis_is_in_the_group_of_its_own_secret_alone() -> None:
    found = {name: service["group_add"] for name, service in SERVICES.items() if "group_add" in service}
    assert found == {name: [str(secret_files.REDIS_GROUP)] for name in ("secrets", "redis")}


def test_only_the_faces_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:${PORT:-8080}:8080"], "grpc": ["127.0.0.1:${GRPC_PORT:-8081}:8081"]}
    assert {"PORT=8080", "GRPC_PORT=8081"} <= set(shlex.split(_instruction("ENV")))
    assert _instruction("EXPOSE").split() == ["8080", "8081"]
    assert COMPOSE["networks"]["backend"]["internal"] is True
    assert {name: SERVICES[name]["networks"] for name in SERVERS} == {name: ["backend"] for name in SERVERS}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little_and_its_log_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert set(service["logging"]["options"]) == {"max-size", "max-file", "labels"}
    assert "cap_add" not in service or name == "postgres"


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_up_is_restarted_and_checked_and_waited_for(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert "healthcheck" in service or name == "api"
    grace_s = int(re.sub(r"\$\{STOP_GRACE_PERIOD:-(.*)\}", r"\1", service["stop_grace_period"]).removesuffix("s"))
    assert grace_s > Settings.model_fields["graceful_timeout_s"].default + 5


def test_nobody_starts_before_what_it_needs() -> None:
    needs = {
        name: {on: how["condition"] for on, how in SERVICES[name].get("depends_on", {}).items()}
        for name in (*STAYING, "prepare")
    }
    written = {"secrets": "service_completed_successfully"}
    prepared = {"prepare": "service_completed_successfully"}
    served = prepared | dict.fromkeys(SERVERS, "service_healthy")
    assert needs == {
        "postgres": {},
        "redis": written,
        "prepare": written | {"postgres": "service_healthy"},
        "api": served,
        "grpc": served,
        # So that a stop takes the workers first.
        **dict.fromkeys(("worker", "webhooks"), served | {"api": "service_healthy"}),
    }


def test_redis_keeps_everything_as_the_embedded_one_does() -> None:
    _, _, *words = SERVICES["redis"]["command"]
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory": f"${{REDIS_MAX_MEMORY:-{REDIS_MAX_MEMORY}}}",
        "--maxmemory-policy": "noeviction",
    }


def test_postgres_keeps_its_data_where_version_18_has_it() -> None:
    assert "postgres-data:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]


def test_no_placeholder_asks_for_an_env_file() -> None:
    placeholders = re.findall(r"(?<!\$)\$\{([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    assert placeholders
    assert [name for name in placeholders if ":-" not in name] == []


def test_the_image_runs_as_a_numbered_user_and_without_a_shell() -> None:
    assert _instruction("USER") == "10001:10001"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(_instruction(name)), list)
    for name in OURS:
        assert all(isinstance(SERVICES[name].get(key, []), list) for key in ("entrypoint", "command"))


def test_the_image_installs_wheels_that_are_known_by_their_hashes() -> None:
    installs = [arguments for name, arguments in INSTRUCTIONS if name == "RUN" and "install --quiet" in arguments]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert "--only-binary :all:" in installs[0]


def test_the_image_gets_all_of_the_service_and_nothing_else() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert "*" in ignore
    assert let_through == {"requirements.txt", "*.py"} | rooms


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups that files were given to; only who is in a group can really do that."""
    given_to: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda _file, _user, group: given_to.append(group))
    return given_to


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_generated_once(tmp_path: Path, groups: list[int]) -> None:
    secret_files.write(tmp_path, {"ADMIN_PASSWORD": ""})
    first = _contents(tmp_path)
    secret_files.write(tmp_path, {})
    assert _contents(tmp_path) == first
    assert set(first) == {"postgres_password", "monitor_password", "redis_password", "admin_password", "redis.conf"}
    assert len(set(first.values())) == 5
    assert all(len(text) > secret_files.SECRET_BYTES for text in first.values())
    assert set(groups) == {secret_files.REDIS_GROUP, secret_files.SERVICE_GROUP}


def test_a_given_secret_wins_and_is_kept(tmp_path: Path, groups: list[int]) -> None:
    secret_files.write(tmp_path, {})
    secret_files.write(tmp_path, {"POSTGRES_PASSWORD": NASTY})
    secret_files.write(tmp_path, {})
    assert _contents(tmp_path)["postgres_password"] == NASTY
    assert groups


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("name", ["JWT_SECRET", "KAFKA_SASL_PASSWORD"])
def test_a_key_that_is_no_longer_given_is_no_longer_used(tmp_path: Path, name: str) -> None:
    secret_files.write(tmp_path, {name: "key"})
    assert secret_files.settings(tmp_path)[name] == "key"
    secret_files.write(tmp_path, {})
    assert name not in secret_files.settings(tmp_path)


@pytest.mark.usefixtures("groups")
def test_nobody_else_may_read_or_write_a_secret(tmp_path: Path) -> None:
    secret_files.write(tmp_path, {})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    grouped = ("postgres_password", "monitor_password", "redis_password", "redis.conf")
    assert modes == dict.fromkeys(grouped, 0o440) | {"admin_password": 0o400}


@pytest.mark.usefixtures("groups")
def test_a_volume_of_before_keeps_its_secrets_and_gets_their_groups(tmp_path: Path) -> None:
    (tmp_path / "redis_password").write_text("old")
    (tmp_path / "redis_password").chmod(0o400)
    secret_files.write(tmp_path, {})
    assert (tmp_path / "redis_password").read_text() == "old"
    assert stat.S_IMODE((tmp_path / "redis_password").stat().st_mode) == 0o440


# What a worker's user finds in such a folder, with a real user and real groups.
READ = """
import os, sys
from pathlib import Path
os.setgroups([])
os.setgid(10001)
os.setuid(10002)
from ops.compose import secret_files
print(*sorted(secret_files.settings(Path(sys.argv[1]))))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes other users, which root alone may")
def test_a_worker_cannot_read_what_is_the_apis_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="wallet-secrets-") as name:
        folder = Path(name)
        secret_files.write(folder, {"JWT_SECRET": "x" * 32, "KAFKA_SASL_PASSWORD": "x"})
        for path in (folder, *folder.iterdir()):
            os.chown(path, 10001, -1)
        folder.chmod(0o711)
        found = nursery.run([sys.executable, "-c", READ, name], cwd=ROOT, check=True).stdout.decode()
        assert set(secret_files.settings(folder)) >= {"ADMIN_PASSWORD", "JWT_SECRET"}
    assert found == "DATABASE_URL KAFKA_SASL_PASSWORD REDIS_URL\n"


def test_a_secret_of_two_lines_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadSecret, match=r"^REDIS_PASSWORD: [^\n]*$") as refusal:
        secret_files.write(tmp_path, {"REDIS_PASSWORD": "first\nsecond"})
    assert "first" not in str(refusal.value)
    assert _contents(tmp_path) == {}


@given(password=one_line)
def test_any_password_survives_the_way_into_a_url(password: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("secrets")
    for name in ("postgres_password", "redis_password"):
        (folder / name).write_text(password)
    found = secret_files.settings(folder)
    assert make_url(found["DATABASE_URL"]).password == password
    assert parse_dsn(found["DATABASE_URL"])["password"] == password
    assert redis.ConnectionPool.from_url(found["REDIS_URL"]).connection_kwargs["password"] == password


@given(password=one_line)
def test_any_password_survives_the_way_into_redis_configuration(password: str) -> None:
    # Its escapes are those of Python's byte strings.
    assert ast.literal_eval(f"b{secret_files.quote_for_redis(password)}").decode() == password


class _Became(Exception):
    """In place of exec, which does not come back."""


@pytest.fixture
def secrets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the entry looks for secrets."""

    def become(program: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        raise _Became(program, arguments, environment)

    monkeypatch.setattr(secret_files, "FOLDER", tmp_path)
    monkeypatch.setattr(entry, "METRICS", tmp_path / "metrics")
    monkeypatch.setattr(os, "execvpe", become)
    for name in ("DATABASE_URL", "REDIS_URL", "ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("groups")
def test_the_entry_becomes_the_program_with_the_secrets_in_its_environment(
    secrets_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_files.write(secrets_folder, {"ADMIN_PASSWORD": "from the file", "POSTGRES_PASSWORD": "p"})
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("OWNER_DATABASE_URL", "postgresql://owner")
    with pytest.raises(_Became) as became:
        entry.main(["python", "worker.py"])
    program, arguments, environment = became.value.args
    assert (program, arguments) == ("python", ["python", "worker.py"])
    assert environment["ADMIN_PASSWORD"] == "from the file"
    assert environment["DATABASE_URL"] == "postgresql://wallet_service:p@postgres:5432/wallet"
    assert environment["REDIS_URL"] == "redis://elsewhere"
    assert "OWNER_DATABASE_URL" not in environment


# An entry that keeps its counts in a folder of the test's, and becomes what says where it counts and stays.
COUNT = """
import sys
from pathlib import Path
from ops.compose import entry
entry.METRICS = Path(sys.argv[1])
entry.main([sys.executable, "-c", sys.argv[2]])
"""
TELL_AND_STAY = "import os, sys; print(os.environ.get('PROMETHEUS_MULTIPROC_DIR'), flush=True); sys.stdin.read()"


def _start_counting(folder: Path, told: Mapping[str, str] = {}) -> "subprocess.Popen[bytes]":
    return nursery.Forked(
        [sys.executable, "-c", COUNT, str(folder), TELL_AND_STAY],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **told},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _where_it_counts(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_a_container_counts_anew_with_each_start_unless_it_is_told_where(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    for _ in range(2):
        with _start_counting(folder) as service:
            assert _where_it_counts(service) == str(folder)
            assert list(folder.iterdir()) == []
            (folder / "counter_1.db").touch()
            service.communicate()
    with _start_counting(folder, {"PROMETHEUS_MULTIPROC_DIR": str(folder)}) as service:
        assert _where_it_counts(service) == str(folder)
        assert (folder / "counter_1.db").exists()
        service.communicate()


def test_a_command_in_a_running_container_leaves_what_the_service_counts(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with _start_counting(folder) as service:
        assert _where_it_counts(service) == str(folder)
        (folder / "counter_1.db").touch()
        with _start_counting(folder) as command:
            assert _where_it_counts(command) == "None"
            command.communicate()
        assert (folder / "counter_1.db").exists()
        service.communicate()


@pytest.mark.usefixtures("secrets_folder")
def test_the_service_starts_only_on_a_prepared_database(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter((1, 0))

    def run(command: list[str], **_options: object) -> "subprocess.CompletedProcess[bytes]":
        assert command[1:] == ["-m", "ops.prepare"]
        return subprocess.CompletedProcess(command, next(statuses))

    monkeypatch.setattr(subprocess, "run", run)
    assert entry.main(["--prepare", "gunicorn"]) == 1
    with pytest.raises(_Became):
        entry.main(["--prepare", "gunicorn"])


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresServer]:
    """A server that trusts whoever comes through its socket, as the container's does."""
    with tempfile.TemporaryDirectory(prefix="wallet-socket-") as socket_folder:  # short enough for a socket's path
        Path(socket_folder).chmod(0o777)
        with PostgresServer(tmp_path / "home", settings={"unix_socket_directories": socket_folder}) as server:
            rules = server.data / "pg_hba.conf"
            rules.write_text("local all all trust\n" + rules.read_text())
            server.stop()
            server.start()
            monkeypatch.setattr(prepare, "SOCKET_FOLDER", Path(socket_folder))
            monkeypatch.setattr(prepare, "PORT", server.port)
            yield server


def _prepare(postgres: PostgresServer, redis_url: str) -> int:
    service = {"DATABASE_URL": f"postgresql://wallet_service:{quote(NASTY, safe='')}@127.0.0.1:{postgres.port}/wallet"}
    return prepare.main({**os.environ, **service, "REDIS_URL": redis_url, "DEMO_WALLETS": "1"})


@pytest.mark.usefixtures("groups")
def test_an_old_volume_gets_roles_tables_and_a_new_password_and_keeps_its_data(
    postgres: PostgresServer, secrets_folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_files.write(secrets_folder, {"POSTGRES_PASSWORD": NASTY})
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    assert _prepare(postgres, redis_url) == 0
    assert _prepare(postgres, redis_url) == 0
    service = make_dsn(host="127.0.0.1", port=postgres.port, dbname="wallet", user="wallet_service", password=NASTY)
    with closing(psycopg2.connect(service)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(balance) FROM wallets")
        assert cursor.fetchone() == (20_000,)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.url)


@pytest.mark.usefixtures("groups")
def test_without_postgres_the_preparation_fails_in_one_line(
    secrets_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret_files.write(secrets_folder, {})
    monkeypatch.setattr(prepare, "SOCKET_FOLDER", secrets_folder)
    assert prepare.main(os.environ) == 1
    assert capsys.readouterr().err.startswith("cannot make the database's roles: ")


@contextmanager
def _answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "result"), [(200, 0), (503, 1)])
def test_the_api_is_healthy_when_it_is_ready(status: int, result: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with _answering(status) as port:
        monkeypatch.setenv("PORT", str(port))
        assert health.main(["api"]) == result
    assert health.main(["api"]) == 1


@pytest.mark.usefixtures("secrets_folder")
def test_grpc_is_healthy_when_it_says_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with grpc_server() as server:
        monkeypatch.setenv("GRPC_PORT", str(server.port))
        assert health.main(["grpc"]) == 0
        server.say(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert health.main(["grpc"]) == 1
    assert health.main(["grpc"]) == 1
    monkeypatch.setenv("GRPC_PORT", "off")
    assert health.main(["grpc"]) == 0


def test_with_tls_it_is_healthy_when_one_of_its_processes_says_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "TURNS", tmp_path / "turns")
    script = "import sys; from pathlib import Path; from ops.local.turns import Turns\n"
    script += "Turns(Path(sys.argv[1]), 1).serving(); print(flush=True); sys.stdin.read()"
    with grpc_server(make_certificate(tmp_path)) as server:
        monkeypatch.setenv("GRPC_PORT", str(server.port))
        assert health.main(["grpc"]) == 1
        with nursery.Forked(
            [sys.executable, "-c", script, str(entry.TURNS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert health.main(["grpc"]) == 0
            process.communicate()
        assert health.main(["grpc"]) == 1


def test_a_consumer_is_healthy_as_long_as_its_loop_goes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setenv("TRANSPORT", "kafka")
    monkeypatch.setattr(rounds, "of_work", rounds.Rounds(clock=lambda: now[0]))
    with MetricsServer("127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("METRICS_PORT", str(server.server_address[1]))
        assert health.main(["worker"]) == 1  # it has not begun
        rounds.of_work.note()
        assert health.main(["worker"]) == 0
        now[0] += rounds.LONGEST_S - 1
        assert health.main(["worker"]) == 0
        now[0] += 1
        assert health.main(["worker"]) == 1
        server.shutdown()
        thread.join()
    assert health.main(["worker"]) == 1


@pytest.mark.usefixtures("secrets_folder")
def test_a_worker_is_healthy_when_rq_knows_it(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert health.main(["worker"]) == 1
    worker = Worker([transfers_queue(redis_client)], connection=redis_client)
    worker.register_birth()  # type: ignore[no-untyped-call]
    assert health.main(["worker"]) == 0
    worker.register_death()  # type: ignore[no-untyped-call]
    assert health.main(["worker"]) == 1
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert health.main(["worker"]) == 1
