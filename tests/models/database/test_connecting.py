"""Of several hosts the first that answers and takes writes is used, and none holds up the way to the next."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models.database import connecting
from models.database.connecting import create_engine_of
from models.database.engine import create_bounded_engine, fetch_all
from models.database.faults import first_line, sqlstate
from models.database.session import Session, Statement
from models.errors import Unavailable
from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests.models.database.catching import caught
from tests.models.database.test_suitability import administer
from tests.patience import PATIENCE_S

# The servers are started once.
pytestmark = pytest.mark.xdist_group("standby")

PORT = text("SELECT inet_server_port()")
BACKEND = text("SELECT pg_backend_pid()")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for each address."""
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 1.0)


@pytest.fixture(params=["says nothing", "answers no SYN"])
def silent(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a host that is there and does not answer."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        if request.param == "answers no SYN":
            for _ in range(2):  # a backlog that is full
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
        yield int(address[1])


def url_of(server: PostgresServer, *places: str, query: str = "") -> str:
    userinfo, _, rest = server.url.rpartition("@")
    return f"{userinfo}@{','.join(places)}/{rest.partition('/')[2]}{query}"


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def bounded(url: str) -> Engine:
    return create_bounded_engine(url, timeouts_ms={"statement_timeout": 5_000}, pool_size=1, application_name="hosts")


def port_of(engine: Engine) -> int:
    try:
        return int(fetch_all(engine, PORT)[0][0])
    finally:
        engine.dispose()


def test_a_first_host_that_is_silent_is_passed_over(primary: PostgresServer, silent: int) -> None:
    assert port_of(bounded(url_of(primary, at(silent), at(primary.port)))) == primary.port


def test_also_without_the_wait_callback(primary: PostgresServer, silent: int) -> None:
    """As those connect that must not give up on a long statement: libpq's own bound holds for them."""
    waiting = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    try:
        assert port_of(create_engine_of(url_of(primary, at(silent), at(primary.port)))) == primary.port
    finally:
        psycopg2.extensions.set_wait_callback(waiting)


def test_a_first_host_that_refuses_or_that_nobody_knows_is_passed_over(primary: PostgresServer) -> None:
    assert port_of(bounded(url_of(primary, "127.0.0.1:1", "nobody.invalid:1", at(primary.port)))) == primary.port


def test_each_address_of_a_name_is_tried(primary: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address is silent, as that of a machine that has just gone."""
    names = {"db.example": ["127.0.0.2", "127.0.0.1"]}

    def find(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    with socket.create_server(("127.0.0.2", primary.port)):  # takes connections, and never says a word
        assert port_of(bounded(url_of(primary, f"db.example:{primary.port}"))) == primary.port


def test_what_served_last_is_asked_first(primary: PostgresServer, silent: int) -> None:
    """A host that is silent for long costs its bound once, and not with each new connection."""
    engine = bounded(url_of(primary, at(silent), at(primary.port)))
    fetch_all(engine, PORT)
    tried: list[str] = []
    connect = psycopg2.connect

    def note(**given: str) -> psycopg2.extensions.connection:
        tried.append(given["port"])
        return connect(**given)  # type: ignore[call-overload, no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg2, "connect", note)
        engine.dispose()
        fetch_all(engine, PORT)
    engine.dispose()
    assert tried == [str(primary.port)]


def test_when_none_answers_each_is_named(primary: PostgresServer, silent: int) -> None:
    engine = bounded(url_of(primary, at(silent), "127.0.0.1:1", "nobody.invalid:1"))
    with pytest.raises(Unavailable) as refusal:
        fetch_all(engine, PORT)
    said = first_line(refusal.value)
    assert "the server has stopped answering" in said
    assert "Connection refused" in said
    assert "nobody.invalid" in said


def test_a_standby_is_passed_over(primary: PostgresServer, standby: PostgresServer) -> None:
    places = at(standby.port), at(primary.port)
    assert port_of(bounded(url_of(primary, *places))) == primary.port
    assert port_of(bounded(url_of(primary, *places, query="?target_session_attrs=primary"))) == primary.port
    assert port_of(bounded(url_of(primary, *places, query="?target_session_attrs=any"))) == standby.port


def test_a_single_host_is_taken_as_it_is_unless_the_url_says_otherwise(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    assert port_of(bounded(url_of(primary, at(standby.port)))) == standby.port
    picky = bounded(url_of(primary, at(standby.port), query="?target_session_attrs=read-write"))
    assert "read-only" in str(caught(lambda: picky.connect().close()))


def test_the_urls_own_bound_is_kept(primary: PostgresServer, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 10 * PATIENCE_S)  # or this would end by the test's own
    assert port_of(bounded(url_of(primary, at(silent), at(primary.port), query="?connect_timeout=1"))) == primary.port


def test_it_is_spelled_as_libpqs_own_programs_take_it(primary: PostgresServer) -> None:
    url = url_of(primary, "127.0.0.1:1", at(primary.port), query="?target_session_attrs=read-write")
    psql = primary.program.with_name("psql")
    said = subprocess.run([psql, url, "-Atc", "SELECT 1"], capture_output=True, text=True, check=True).stdout
    assert said == "1\n"
    with closing(psycopg2.connect(url)) as connection:
        assert connection.info.port == primary.port


def test_a_socket_of_this_machine_is_no_name(tmp_path: Path) -> None:
    engine = bounded(f"postgresql://u@/d?host={tmp_path}")
    assert f"{tmp_path}/.s.PGSQL.5432" in str(caught(lambda: engine.connect().close()))


def test_a_server_that_takes_writes_no_longer_is_left(primary: PostgresServer) -> None:
    """As after a failover that ends no session: the next connection may lead to another one."""
    write = Statement("write", ("int",), "SELECT set_config('x.y', nextval('served')::text, false), $1")
    engine = create_bounded_engine(
        primary.url, timeouts_ms={"statement_timeout": 5_000}, pool_size=2, application_name="hosts"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE IF NOT EXISTS served")
    try:
        with engine.connect() as one, engine.connect() as other:
            before = {each.execute(BACKEND).scalar_one() for each in (one, other)}
        administer(primary, "ALTER SYSTEM SET default_transaction_read_only = on")
        administer(primary, "SELECT pg_reload_conf()")

        def is_refused() -> bool:
            try:
                with Session(engine) as session:
                    session.rows(write, 0)
            except DBAPIError as error:
                return sqlstate(error) == "25006"
            return False

        assert wait_for(is_refused, PATIENCE_S)
        with engine.connect() as one, engine.connect() as other:
            assert not before & {each.execute(BACKEND).scalar_one() for each in (one, other)}
    finally:
        administer(primary, "ALTER SYSTEM RESET default_transaction_read_only")
        administer(primary, "SELECT pg_reload_conf()")
        engine.dispose()
