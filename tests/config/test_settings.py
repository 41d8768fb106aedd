"""A wrong setting stops the start with one line that names it, and never shows a secret."""

import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from config import ConfigurationError, PrepareSettings, Settings, StackSettings, load, load_or_exit
from tests import nursery
from tests.project import ROOT

NEEDED = {"DATABASE_URL": "postgresql://u:hunter2@localhost/d", "REDIS_URL": "redis://:hunter2@localhost"}

# Each setting with the least and the greatest value that it takes.
BOUNDS = {
    "PORT": (1, 65_535),
    "BATCH_SIZE": (1, 2_000),
    "API_PROCESSES": (1, 64),
    "GRPC_PORT": (1, 65_535),
    "GRPC_PROCESSES": (1, 64),
    "GRACEFUL_TIMEOUT_S": (1, 300),
    "LOCK_TIMEOUT_MS": (10, 60_000),
    "STATEMENT_TIMEOUT_MS": (10, 60_000),
    "IDLE_IN_TRANSACTION_TIMEOUT_MS": (100, 30_000),
    "MAX_BODY_BYTES": (256, 1_048_576),
    "CACHE_TTL": (0, 86_400),
    "METRICS_PORT": (1, 65_535),
}
STACK_BOUNDS = {"PORT": (1, 65_535), "GRPC_PORT": (1, 65_535), "GRPC_PROCESSES": (1, 64), "WORKERS": (0, 64)}
CASES = [(Settings, name, bounds) for name, bounds in BOUNDS.items()] + [
    (StackSettings, name, bounds) for name, bounds in STACK_BOUNDS.items()
]
EACH_BOUND = pytest.mark.parametrize(
    ("kind", "name", "bounds"), CASES, ids=[f"{case[0].__name__}.{case[1]}" for case in CASES]
)


class Environment:
    """The environment of one test: nothing in it but what is set here."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        for kind in (PrepareSettings, StackSettings):
            for name in kind.model_fields:
                patch.delenv(name.upper(), raising=False)
        self.set(**NEEDED)

    def set(self, **values: str) -> None:
        for name, value in values.items():
            self._patch.setenv(name, value)

    def unset(self, name: str) -> None:
        self._patch.delenv(name)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment with what has no default."""
    return Environment(monkeypatch)


def complaint(capsys: pytest.CaptureFixture[str], kind: type[BaseSettings] = Settings) -> str:
    """Load settings that are wrong and return the one line that says so."""
    with pytest.raises(SystemExit) as end:
        load_or_exit(kind)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    assert "hunter2" not in said.err
    return said.err


def test_the_defaults_are_the_contracts(environment: Environment) -> None:
    del environment
    settings = load(Settings)
    assert (settings.host, settings.port, settings.auth_mode) == ("127.0.0.1", 8080, "user-id")
    assert (settings.transport, settings.log_level) == ("rq", "INFO")
    stack = load(StackSettings)
    assert (stack.wallet_home, stack.port, stack.workers) == (Path(".local"), 8080, 2)


@EACH_BOUND
def test_each_bound_itself_is_taken(
    environment: Environment, kind: type[BaseSettings], name: str, bounds: tuple[int, int]
) -> None:
    if name == "PORT":
        environment.set(GRPC_PORT="off")  # there is none beside the last one
    for value in bounds:
        environment.set(**{name: str(value)})
        assert getattr(load(kind), name.lower()) == value


@EACH_BOUND
def test_beyond_each_bound_one_line_names_the_setting(
    environment: Environment,
    capsys: pytest.CaptureFixture[str],
    kind: type[BaseSettings],
    name: str,
    bounds: tuple[int, int],
) -> None:
    for value in (bounds[0] - 1, bounds[1] + 1, "x", "1.5"):
        environment.set(**{name: str(value)})
        assert complaint(capsys, kind).startswith(f"configuration error: {name}: ")


EACH_LISTENING = pytest.mark.parametrize("kind", [Settings, StackSettings])
TLS = {"GRPC_TLS_CERT": "c.pem", "GRPC_TLS_KEY": "k.pem"}


@EACH_LISTENING
def test_grpc_is_beside_the_api_unless_it_is_told_where_or_is_off(
    environment: Environment, kind: type[Settings | StackSettings]
) -> None:
    assert (load(kind).grpc_port, load(kind).grpc_processes) == (8081, 2)
    environment.set(PORT="9000")
    assert load(kind).grpc_port == 9001
    environment.set(GRPC_PORT="7000")
    assert load(kind).grpc_port == 7000
    environment.set(GRPC_PORT="")
    assert load(kind).grpc_port == 9001
    environment.set(GRPC_PORT="off")
    assert load(kind).grpc_port is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"GRPC_PORT": "8080"}, "GRPC_PORT and PORT must differ"),
        ({"PORT": "65535"}, "GRPC_PORT: "),
        ({"GRPC_TLS_CERT": "c.pem"}, "GRPC_TLS_CERT and GRPC_TLS_KEY go together"),
        ({"GRPC_TLS_KEY": "k.pem"}, "GRPC_TLS_CERT and GRPC_TLS_KEY go together"),
        ({"GRPC_TLS_CLIENT_CA": "ca.pem"}, "GRPC_TLS_CLIENT_CA needs GRPC_TLS_CERT"),
    ],
)
@EACH_LISTENING
def test_what_contradicts_itself_about_grpc_is_one_line(
    environment: Environment,
    capsys: pytest.CaptureFixture[str],
    kind: type[Settings | StackSettings],
    given: dict[str, str],
    said: str,
) -> None:
    environment.set(**given)
    assert complaint(capsys, kind).startswith(f"configuration error: {said}")


def test_what_belongs_together_about_grpc_is_taken(environment: Environment) -> None:
    environment.set(**TLS)
    assert load(Settings).grpc_tls_cert == Path("c.pem")
    environment.set(GRPC_TLS_CLIENT_CA="ca.pem")
    assert load(Settings).grpc_tls_client_ca == Path("ca.pem")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@localhost/d"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2@localhost:port/d"),
        ("REDIS_URL", "redis://:hunter2@localhost:65536"),
        ("REDIS_URL", "http://:hunter2@localhost"),
        ("AUTH_MODE", "magic"),
        ("TRANSPORT", "pigeon"),
        ("LOG_LEVEL", "LOUD"),
        ("DEMO_WALLETS", "perhaps"),
        ("ALLOW_USER_ID_MODE", "perhaps"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    environment: Environment, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.set(**{name: value})
    assert complaint(capsys).startswith(f"configuration error: {name}: ")


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_setting_is_named(
    environment: Environment, capsys: pytest.CaptureFixture[str], name: str, empty: bool
) -> None:
    if empty:
        environment.set(**{name: ""})
    else:
        environment.unset(name)
    assert complaint(capsys) == f"configuration error: {name}: Field required\n"


def test_jwt_without_a_key_does_not_start(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    environment.set(AUTH_MODE="jwt")
    assert "AUTH_MODE" in complaint(capsys)


ELSEWHERE = ("0.0.0.0", "::", "192.168.1.1", "10.0.0.1", "2001:db8::1", "example.org", "localhost.example.org")  # noqa: S104


@pytest.mark.parametrize("host", ELSEWHERE)
def test_user_id_mode_listens_on_loopback_only_unless_told_otherwise(
    environment: Environment, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    environment.set(HOST=host)
    said = complaint(capsys)
    assert f"HOST={host}" in said
    assert "ALLOW_USER_ID_MODE" in said
    environment.set(ALLOW_USER_ID_MODE="0")
    complaint(capsys)
    environment.set(ALLOW_USER_ID_MODE="1")
    assert load(Settings).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_user_id_mode_listens_on_loopback(environment: Environment, host: str) -> None:
    environment.set(HOST=host)
    assert load(Settings).host == host


@pytest.mark.parametrize(
    ("given", "delays"),
    [
        ("1", (1.0,)),
        ("0", (0.0,)),
        ("0.05,0.1", (0.05, 0.1)),
        (" 1 , 5,25 ", (1.0, 5.0, 25.0)),
        ("86400", (86_400.0,)),
        (",".join(["1"] * 20), (1.0,) * 20),
        ("", (1.0, 5.0, 25.0)),  # empty is not set
    ],
)
def test_retry_delays_are_seconds_with_commas_between(
    environment: Environment, given: str, delays: tuple[float, ...]
) -> None:
    environment.set(RETRY_DELAYS=given)
    assert load(Settings).retry_delays == delays


@pytest.mark.parametrize(
    "given", ["x", ",", "1,", "1,,2", "1;2", "[1]", "-1", "1,-0.1", "nan", "inf", "86400.1", ",".join(["1"] * 21)]
)
def test_wrong_retry_delays_are_named(environment: Environment, capsys: pytest.CaptureFixture[str], given: str) -> None:
    environment.set(RETRY_DELAYS=given)
    assert complaint(capsys).startswith("configuration error: RETRY_DELAYS: ")


def test_settings_are_frozen_and_do_not_show_secrets(environment: Environment) -> None:
    environment.set(ADMIN_PASSWORD="hunter2")
    settings, stack = load(Settings), load(StackSettings)
    with pytest.raises(ValidationError):
        settings.__setattr__("port", 1)
    assert "hunter2" not in f"{settings!r}{settings}{stack!r}{settings.model_dump_json()}"
    assert settings.admin_password.get_secret_value() == "hunter2"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_the_database_url_names_the_driver(environment: Environment, scheme: str) -> None:
    environment.set(DATABASE_URL=f"{scheme}://u:p%40@h:1/d?sslmode=require")
    assert load(Settings).sqlalchemy_url == "postgresql+psycopg2://u:p%40@h:1/d?sslmode=require"


def test_the_owner_migrates_and_where_there_is_none_the_service_does(environment: Environment) -> None:
    environment.set(DATABASE_URL="postgresql://service@h/d")
    assert load(PrepareSettings).owner_sqlalchemy_url == "postgresql+psycopg2://service@h/d"
    environment.set(OWNER_DATABASE_URL="postgresql://owner@/d?host=/run/socket")
    assert load(PrepareSettings).owner_sqlalchemy_url == "postgresql+psycopg2://owner@/d?host=/run/socket"
    assert load(PrepareSettings).sqlalchemy_url == "postgresql+psycopg2://service@h/d"


def test_the_timeouts_have_postgresqls_names(environment: Environment) -> None:
    environment.set(LOCK_TIMEOUT_MS="11", STATEMENT_TIMEOUT_MS="12", IDLE_IN_TRANSACTION_TIMEOUT_MS="130")
    assert load(Settings).database_timeouts_ms == {
        "lock_timeout": 11,
        "statement_timeout": 12,
        "idle_in_transaction_session_timeout": 130,
    }


def test_what_is_given_wins_over_the_environment(environment: Environment) -> None:
    environment.set(PORT="1")
    assert load(Settings, port=2).port == 2
    with pytest.raises(ConfigurationError, match=r"^PORT: "):
        load(Settings, port=0)


@pytest.mark.parametrize(
    "entry",
    [["-c", "import wsgi"], ["worker.py"], ["-m", "ops.grpc"]],
    ids=["wsgi", "worker", "gRPC"],
)
def test_every_entry_point_ends_with_status_2_and_one_line(entry: list[str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    environment = inherited | NEEDED | {"RETRY_DELAYS": "soon"}
    ended = nursery.run([sys.executable, *entry], cwd=ROOT, env=environment, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("configuration error: RETRY_DELAYS: ")
    assert ended.stderr.count("\n") == 1
