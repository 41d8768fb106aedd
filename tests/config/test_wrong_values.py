"""Whatever a setting is not, one line says so by its name: for every setting, and in every program alike."""

import os
import sys
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from config import BrokersSettings, ConfigurationError, MetricsSettings, PrepareSettings, StackSettings, load
from tests import nursery
from tests.project import ROOT

SECRET = "hunter2"
URLS = {"DATABASE_URL": f"postgresql://u:{SECRET}@h/d", "REDIS_URL": f"redis://:{SECRET}@h"}
KINDS: list[type[BaseSettings]] = [PrepareSettings, StackSettings, BrokersSettings, MetricsSettings]

BLANK = (" ", "\t", "1\n2")
INTEGER = (*BLANK, "-1", "1e3", "1.5", "0x10", "1,", "a", "nan", "\u0661\u0662", "9" * 40)
NUMBER = (*BLANK, "-1", "nan", "inf", "a", "1,", "\u0661", "9" * 40)
LIST = (*BLANK, ",", "1.5,", "x")
SWITCH = (*BLANK, "2", "-1", "perhaps", "1,")
WORD = (*BLANK, "x", "-1", "user-id,")
POSTGRES = (
    *BLANK, "x", "h", "mysql://h/d", "postgresql+psycopg2://h/d", "host=h dbname=d", "jdbc:postgresql://h/d",
    "postgresql://h:0/d", "postgresql://h:65536/d", "postgresql://h:x/d", "postgresql://h:\u0661/d",
    "postgresql://h1:1,h2:x/d", "postgresql://h1,,h2/d", "postgresql://h1:1,h2:2,h3:3/d?port=1,2",
    "postgresql://h1,h2/d?hostaddr=127.0.0.1,127.0.0.2,127.0.0.3", "postgresql://" + ",".join(["h"] * 17) + "/d",
    "postgresql://a b/d", "postgresql://h/d ", "postgresql://u:hunter2%zz@h/d", "postgresql://h/d?foo=bar",
    "postgresql://h/d?foo", "postgresql://h/d?host=a:1&host=b:2", "postgresql://h/d?host=a:1",
    "postgresql://h/d?sslmode=bogus", "postgresql://h/d?channel_binding=hunter2", "postgresql://h/d?service=nobody",
    "postgresql://h/d?sslrootcert=/nowhere/ca.crt", "postgresql://h/d?connect_timeout=x",
    "postgresql://h/d?connect_timeout=31", "postgresql://h/d?keepalives_idle=x",
    "postgresql://h/d?target_session_attrs=standby", "postgresql://h/d?load_balance_hosts=random",
)  # fmt: skip
REDIS = (
    *BLANK, "x", "h:6379", "http://h", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h1,h2",
    "redis://h/x", "redis://h/-1", "redis://h/1/2", "redis://h/\u0661", "redis://h?db=x", "redis://h/0 ",
    "redis://:hunter2#1@h", "redis://h?foo=bar", "redis://h?foo", "redis://h?ssl_cert_reqs=none",
    "rediss://h?ssl_cert_reqs=bogus", "rediss://h?ssl_ca_certs=/nowhere/ca.crt", "rediss://h?ssl_check_hostname=2",
    "redis://h?db=1&db=2", "redis://h?decode_responses=1", "redis://h?socket_timeout=60", "unix://", "unix://x",
    "unix:///x?db=x",
)  # fmt: skip

WRONG: dict[str, tuple[str, ...]] = {
    "DATABASE_URL": POSTGRES,
    "OWNER_DATABASE_URL": POSTGRES,
    "REDIS_URL": REDIS,
    "CACHE_REDIS_URL": REDIS,
    "HOST": (*BLANK, "a b", "127.0.0.1:80", "[::1]", "1,", "http://h", "-1", "\u0661"),
    "PORT": (*INTEGER, "0", "65536"),
    "MAX_BODY_BYTES": (*INTEGER, "255"),
    "MAX_BULK_BYTES": (*INTEGER, "255"),
    "API_PROCESSES": (*INTEGER, "0"),
    "API_QUEUE": (*INTEGER, "0"),
    "GRACEFUL_TIMEOUT_S": (*INTEGER, "0"),
    "GRPC_PORT": (*INTEGER, "0", "65536", "OFF", "on", "none"),
    "GRPC_PROCESSES": (*INTEGER, "0", "65"),
    "GRPC_TLS_CERT": BLANK,
    "GRPC_TLS_KEY": BLANK,
    "GRPC_TLS_CLIENT_CA": BLANK,
    "AUTH_MODE": (*WORD, "JWT"),
    "ALLOW_USER_ID_MODE": SWITCH,
    "JWT_SECRET": (*BLANK, "short", "-----BEGIN PUBLIC KEY-----" + "x" * 32),
    "JWT_JWKS_URL": (
        *BLANK, "x", "http://h/keys", "https://u:hunter2@h/k", "https://h:x/k", "https://h:99999/k",
        "https:///k",
    ),
    "JWT_ISSUER": (*BLANK, " x", "x "),
    "JWT_AUDIENCE": (*BLANK, " x", "x "),
    "DEPOSIT_SCOPE": (*BLANK, "a b", 'a"', "\u0661"),
    "ADMIN_USER": (*BLANK, "a:b", " admin", "admin "),
    "ADMIN_PASSWORD": BLANK,
    "TRUSTED_PROXIES": (
        *LIST, "10.0.0.0/8,", "10.0.0.1/8", "10.0.0.0/33", "\u0661.0.0.1",
        ",".join(["127.0.0.1"] * 65),
    ),
    "CORS_ORIGINS": (
        *LIST, "https://a.example,", "https://a.example/", "https://A.example", "*",
        ",".join(["http://a"] * 65),
    ),
    "RATE_LIMIT": (
        *BLANK, "-1/second", "0/second", "1e3/second", "1/day", "1/second;burst=0", "1/second,", "on",
        "\u0661/second",
    ),
    "BATCH_SIZE": (*INTEGER, "0"),
    "RETRY_DELAYS": (*LIST, "1,", "-1", "nan", "inf", "\u0661", "86401", ",".join(["1"] * 21)),
    "WEBHOOK_DELAYS": (*LIST, "1,", "-1", "nan", "inf", "\u0661", "86401", ",".join(["1"] * 21)),
    "WEBHOOK_ALLOW_NETWORKS": (*LIST, "10.0.0.0/8,", "10.0.0.1/8", "10.0.0.0/33", ",".join(["127.0.0.1"] * 65)),
    "WEBHOOK_DAYS": (*INTEGER, "0", "3651"),
    "CACHE_TTL": INTEGER,
    "AUDIT_INTERVAL_S": NUMBER,
    "TRANSPORT": WORD,
    "EVENTS_DAYS": (*INTEGER, "0", "3651"),
    "KAFKA_BROKERS": (
        *BLANK, "h", "h:", ":9092", "h:0", "h:65536", "h:x", "h:9092,", "kafka://h:9092", "h:\u0661", "a b:9092",
        ",".join(["h:9092"] * 17),
    ),
    "KAFKA_SECURITY_PROTOCOL": (*WORD, "plaintext"),
    "KAFKA_SASL_MECHANISM": (*WORD, "GSSAPI"),
    "KAFKA_SASL_USERNAME": BLANK,
    "KAFKA_SASL_PASSWORD": BLANK,
    "KAFKA_SSL_CA": (*BLANK, "/nowhere/ca.crt"),
    "KAFKA_GROUP_PROTOCOL": (*WORD, "Consumer"),
    "KAFKA_PARTITIONS": (*INTEGER, "0", "1001"),
    "DB_CONNECTIONS": (*INTEGER, "1"),
    "LOCK_TIMEOUT_MS": (*INTEGER, "9"),
    "STATEMENT_TIMEOUT_MS": (*INTEGER, "9"),
    "MIGRATION_TIMEOUT_S": (*INTEGER, "604801"),
    "IDLE_IN_TRANSACTION_TIMEOUT_MS": (*INTEGER, "99"),
    "LOG_LEVEL": (*WORD, "info"),
    "METRICS_PORT": (*INTEGER, "0", "65536"),
    "PROMETHEUS_MULTIPROC_DIR": ("", *BLANK, "/nowhere/at/all", __file__),
    "DEMO_WALLETS": SWITCH,
    "WALLET_HOME": BLANK,
    "WORKERS": INTEGER,
    "BROKERS": (*INTEGER, "0", "2", "4", "01"),
}  # fmt: skip
CASES = [pytest.param(name, value, id=f"{name}={value[:40]!a}") for name, values in WRONG.items() for value in values]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with what has no default, and nothing else of ours."""
    for name in WRONG:
        monkeypatch.delenv(name, raising=False)
    for name, value in URLS.items():
        monkeypatch.setenv(name, value)


def test_every_setting_is_here() -> None:
    assert set(WRONG) == {name.upper() for kind in KINDS for name in kind.model_fields}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_wrong_value_is_one_line_that_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for kind in KINDS:
        if name.lower() in kind.model_fields:
            with pytest.raises(ConfigurationError) as refusal:
                load(kind)
            said = str(refusal.value)
            assert said.startswith(f"{name}: ")
            assert "\n" not in said
            assert SECRET not in said


RIGHT = [
    ("DATABASE_URL", "postgres://u:p%40%20@h1:1,[::1]:2,10.0.0.1/d?target_session_attrs=read-write&connect_timeout=5"),
    ("DATABASE_URL", "postgresql://u@/d?host=/run/socket"),
    ("DATABASE_URL", "postgresql:///d"),
    ("DATABASE_URL", "postgresql://h/d?sslmode=verify-full&sslrootcert=system"),
    ("DATABASE_URL", f"postgresql://h/d?sslmode=verify-ca&sslrootcert={__file__}"),
    ("DATABASE_URL", "postgresql://h/d?options=-c%20work_mem%3D8MB&application_name=x"),
    ("DATABASE_URL", "postgresql://h1:1,h2:2/d?hostaddr=127.0.0.1,127.0.0.2"),
    ("REDIS_URL", "redis://user:p%23%40@h:6380/15"),
    ("REDIS_URL", "redis://[::1]:1?db=3&client_name=wallet"),
    ("REDIS_URL", "unix:///run/redis.sock?db=1&username=u&password=p"),
    ("REDIS_URL", f"rediss://h?ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs={__file__}"),
]


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_what_the_drivers_take_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load(PrepareSettings), name.lower()).get_secret_value() == value


PROGRAMS = {
    "API": ["-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app"],
    "gRPC": ["-m", "ops.grpc"],
    "worker": ["worker.py"],
    "prepare": ["-m", "ops.prepare"],
    "make run": ["-m", "ops.local.stack"],
    "make backup": ["-m", "ops.backup", "dump"],
    "flask": ["-m", "flask", "doctor"],
}
IN_EACH = {
    "DATABASE_URL": "postgresql://u:hunter2@h1,h2:x/d",
    "REDIS_URL": "redis://:hunter2@h/0?foo=bar",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", IN_EACH)
def test_every_program_ends_with_that_line(program: str, name: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    environment = {**inherited, **URLS, "WALLET_HOME": str(tmp_path / "home"), name: IN_EACH[name]}
    ended = nursery.run([sys.executable, *PROGRAMS[program]], cwd=ROOT, env=environment, text=True)
    (line,) = (line for line in (ended.stdout + ended.stderr).splitlines() if line)
    assert ended.returncode == 2
    assert line.startswith(f"configuration error: {name}: ")
    assert SECRET not in line
