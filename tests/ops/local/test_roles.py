"""Two roles and a database: made where they are missing, put right where they differ."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2 import extensions

from ops.local import roles
from ops.local.servers import PostgresServer
from tests.ops.local.test_servers import ask

pytestmark = pytest.mark.xdist_group("roles")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("roles")) as server:
        yield server


def test_the_service_is_not_the_owner_and_neither_is_anything_more(postgres: PostgresServer) -> None:
    assert ask(postgres.service_url, "SELECT current_user || ' ' || current_database()") == "wallet_service wallet"
    query = (
        "SELECT bool_or(rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)"
        " FROM pg_roles WHERE rolname LIKE 'wallet%'"
    )
    assert ask(postgres.url, query) is False
    assert ask(postgres.service_url, "SELECT pg_has_role('wallet', 'MEMBER')") is False


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE anything (id int)", "CREATE TEMPORARY TABLE anything (id int)", "CREATE SCHEMA anything"],
)
def test_the_service_makes_nothing(postgres: PostgresServer, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(postgres.service_url, statement)


def test_nobody_else_may_connect(postgres: PostgresServer) -> None:
    with closing(psycopg2.connect(postgres.admin_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    stranger = f"postgresql://stranger:stranger@127.0.0.1:{postgres.port}/wallet"
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(stranger)


@pytest.mark.parametrize("role", ["url", "service_url"])
def test_no_search_begins_with_what_is_temporary(postgres: PostgresServer, role: str) -> None:
    assert ask(getattr(postgres, role), "SHOW search_path") == "public, pg_temp"


def test_the_service_sees_what_metrics_are_made_of(postgres: PostgresServer) -> None:
    query = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'postgres' AND query <> '<insufficient privilege>'"
    )
    with closing(psycopg2.connect(postgres.admin_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert ask(postgres.service_url, query) is True


def test_an_exporter_sees_statistics_and_nothing_of_the_wallets(postgres: PostgresServer) -> None:
    def connect(database: str) -> extensions.connection:
        return psycopg2.connect(postgres.admin_url, dbname=database)

    with closing(connect("wallet")) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE wallet")
        cursor.execute("CREATE TABLE IF NOT EXISTS money AS SELECT 1 AS cents")
    for _ in range(2):
        roles.set_up_monitor(connect, password="monitor")
    monitor = f"postgresql://wallet_monitor:monitor@127.0.0.1:{postgres.port}/wallet"
    assert ask(monitor, "SELECT count(*) > 0 FROM pg_stat_activity") is True
    assert ask(monitor, "SELECT pg_database_size('wallet') > 0") is True
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(monitor, "SELECT cents FROM public.money")


def test_a_server_from_before_the_services_role_gets_it(postgres: PostgresServer) -> None:
    with closing(psycopg2.connect(postgres.admin_url, dbname="wallet")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in (
            "DROP OWNED BY wallet_service",
            "DROP ROLE wallet_service",
            "GRANT ALL ON DATABASE wallet TO PUBLIC",
            "GRANT ALL ON SCHEMA public TO PUBLIC",
            "ALTER ROLE wallet CREATEROLE",
        ):
            cursor.execute(statement)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(postgres.service_url)
    postgres.set_up()
    assert ask(postgres.service_url, "SELECT has_schema_privilege('public', 'CREATE')") is False
    assert ask(postgres.service_url, "SELECT has_database_privilege('wallet', 'TEMPORARY')") is False
    assert ask(postgres.url, "SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user") is False


def test_an_owner_without_a_password_cannot_come_through_the_network(postgres: PostgresServer) -> None:
    def connect(database: str) -> extensions.connection:
        return psycopg2.connect(postgres.admin_url, dbname=database)

    roles.set_up(connect, owner_password=None, service_password="another")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.url)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.service_url)
    postgres.set_up()
    assert ask(postgres.url, "SELECT current_user") == "wallet"
    assert ask(postgres.service_url, "SELECT current_user") == "wallet_service"
