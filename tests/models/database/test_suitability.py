"""A server that the service cannot rest on is refused at the start, by name, and /readyz and doctor know it, too."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from models.checkup import Finding, Level, check_postgres
from models.database.room import find_room
from models.database.suitability import POOLER, READ_ONLY, STANDBY
from models.schema import revision
from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests import nursery
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.pgbouncer import pgbouncer
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("standby")


def prepare(url: str, **settings: str) -> nursery.Completed:
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1", **settings}
    return nursery.run([sys.executable, "-m", "ops.prepare"], cwd=ROOT, env=environment, text=True)


def refusal_of(url: str, **settings: str) -> str:
    """Return the one line that it ends with."""
    ended = prepare(url, **settings)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    return str(line)


def doctor(url: str, *, wanted: int = 10) -> dict[str, Finding]:
    with bounded_engine(url, pool_size=2) as engine:
        return {each.name: each for each in check_postgres(engine, connections_wanted=wanted)}


def readiness(url: str) -> str:
    with bounded_engine(url) as engine:
        return revision.readiness(engine)


def administer(server: PostgresServer, statement: str) -> None:
    with closing(psycopg2.connect(server.admin_url)) as connection:
        connection.set_session(autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(statement)


@contextmanager
def administered(server: PostgresServer, statement: str, undo: str) -> Iterator[None]:
    administer(server, statement)
    try:
        yield
    finally:
        administer(server, undo)


def test_a_standby_is_refused(primary: PostgresServer, standby: PostgresServer) -> None:
    assert prepare(primary.url).returncode == 0
    url = standby.url
    assert refusal_of(url) == f"configuration error: DATABASE_URL: {STANDBY}"
    assert refusal_of(primary.url, OWNER_DATABASE_URL=url) == f"configuration error: OWNER_DATABASE_URL: {STANDBY}"
    assert wait_for(lambda: readiness(url) == "read only", PATIENCE_S)
    (found,) = doctor(url).values()
    assert (found.name, found.level, found.what) == ("postgres", Level.FAIL, f"DATABASE_URL {STANDBY}")


def test_a_database_that_takes_no_writes_by_default_is_refused(
    postgres_server: PostgresServer, own_database_url: str
) -> None:
    assert readiness(own_database_url) == "ok"
    administer(postgres_server, "ALTER DATABASE own SET default_transaction_read_only = on")
    assert refusal_of(own_database_url) == f"configuration error: DATABASE_URL: {READ_ONLY}"
    assert readiness(own_database_url) == "read only"
    assert doctor(own_database_url)["postgres"].level is Level.FAIL


def test_every_command_takes_several_hosts(own_database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Of which the first does not answer."""
    userinfo, _, place = own_database_url.rpartition("@")
    url = f"{userinfo}@127.0.0.1:1,{place}"
    assert prepare(url).returncode == 0
    environment = {
        "PATH": os.environ["PATH"],
        "WALLET_HOME": str(tmp_path),
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
    }
    for command, status in ((["-m", "ops.backup", "dump"], 0), (["-m", "flask", "wallets", "show", "1"], 1)):
        ended = nursery.run([sys.executable, *command], cwd=ROOT, env=environment, text=True)
        assert ended.returncode == status, ended.stderr
    assert "no wallet" in ended.stderr
    assert readiness(url) == "ok"
    assert doctor(url)["postgres"].level is Level.OK


@pytest.mark.parametrize(
    ("mode", "ignored"),
    [
        ("transaction", "extra_float_digits"),
        ("transaction", "extra_float_digits,options"),
        ("session", "extra_float_digits,options"),
    ],
    ids=["refuses options", "drops options", "drops options in sessions"],
)
def test_a_pooler_is_refused_by_name(tmp_path: Path, own_database_url: str, mode: str, ignored: str) -> None:
    with pgbouncer(tmp_path / "pgbouncer", own_database_url, mode=mode, ignored=ignored) as url:
        assert refusal_of(url) == f"configuration error: DATABASE_URL: {POOLER}"
        assert readiness(url) == "behind a pooler"
        found = doctor(url)
        assert (found["postgres"].level, found["postgres"].what) == (Level.FAIL, f"DATABASE_URL {POOLER}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: url.replace("postgresql://wallet:", "postgresql://wallet:x"), "password authentication failed"),
        (lambda url: url + "_nowhere", 'database "own_nowhere" does not exist'),
        (lambda url: url + "?options=-c%20no_such_setting%3D1", "unrecognized configuration parameter"),
    ],
    ids=["password", "database", "options"],
)
def test_a_server_that_refuses_us_is_told_at_once(
    own_database_url: str, change: Callable[[str], str], why: str
) -> None:
    line = refusal_of(change(own_database_url))
    assert line.startswith("configuration error: DATABASE_URL: is refused by the server: ")
    assert why in line


# Connections


@pytest.fixture
def role(postgres_server: PostgresServer) -> str:
    """A role that nobody else of these tests connects as."""
    role = f"few_{secrets.token_hex(4)}"
    administer(postgres_server, f"CREATE ROLE {role} LOGIN PASSWORD 'few'")
    return role


def as_role(role: str, url: str) -> str:
    return f"postgresql://{role}:few@{url.rpartition('@')[2]}"


@pytest.mark.parametrize("who", ["the role", "the database"])
def test_a_limit_that_leaves_workers_none_is_refused_and_names_its_setting(
    postgres_server: PostgresServer, own_database_url: str, role: str, who: str
) -> None:
    """Two processes of the API may have seven each, and two workers need two each; of gRPC each may have six."""
    what = f"ROLE {role}" if who == "the role" else "DATABASE own"
    url, owner = as_role(role, own_database_url), {"OWNER_DATABASE_URL": own_database_url, "GRPC_PORT": "off"}
    administer(postgres_server, f"ALTER {what} CONNECTION LIMIT 17")
    line = refusal_of(url, **owner)
    assert line.startswith(f"configuration error: DB_CONNECTIONS: {who} allows 17 connections, of which the API may")
    assert "the API may take 20" in refusal_of(url, API_PROCESSES="4", DB_CONNECTIONS="4", **owner)
    with_grpc = owner | {"GRPC_PORT": "1", "GRPC_PROCESSES": "3"}
    assert "API and gRPC may take 32" in refusal_of(url, **with_grpc)
    assert "DB_CONNECTIONS, API_PROCESSES or GRPC_PROCESSES" in refusal_of(url, **with_grpc)
    assert prepare(url, WORKERS="1", **owner).returncode == 0
    assert prepare(url, DB_CONNECTIONS="4", **owner).returncode == 0
    administer(postgres_server, f"ALTER {what} CONNECTION LIMIT 18")
    ended = prepare(url, **owner)
    assert ended.returncode == 0
    assert "connections may run out" in ended.stdout


def test_doctor_counts_what_others_have_of_the_same_limit(
    postgres_server: PostgresServer, own_database_url: str, role: str
) -> None:
    """The same role in another database is somebody else."""
    administer(postgres_server, f"ALTER ROLE {role} CONNECTION LIMIT 12")
    url = as_role(role, own_database_url)
    elsewhere = url.rpartition("/")[0] + "/postgres"
    with closing(psycopg2.connect(elsewhere)), closing(psycopg2.connect(elsewhere)):
        found = doctor(url, wanted=10)["connections"]
        assert found.level is Level.OK
        assert found.what == "the role allows 12 connections, of which others have 2 now, this service may take 10"
        assert doctor(url, wanted=11)["connections"].level is Level.WARN


def test_a_superuser_has_what_is_reserved_and_no_limit_of_its_own(postgres_server: PostgresServer) -> None:
    with (
        administered(
            postgres_server, "ALTER ROLE postgres CONNECTION LIMIT 5", "ALTER ROLE postgres CONNECTION LIMIT -1"
        ),
        bounded_engine(postgres_server.admin_url) as engine,
    ):
        room = find_room(engine)
    assert (room.who, room.most) == ("the server", 100)


def test_what_is_reserved_is_nobody_elses(postgres_server: PostgresServer) -> None:
    with bounded_engine(postgres_server.url) as engine:
        assert (find_room(engine).who, find_room(engine).most) == ("the server", 97)
