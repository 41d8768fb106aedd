"""Real servers for every test process, clean tables for every test.

Each process has servers of its own, and not only databases: the oldest transaction that an audit waits for, what is
counted, set, forgotten or full, are a whole server's, and what tests of other processes do must not matter.
"""

import functools
import gc
import os
import secrets
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2
import pytest
import redis
from _pytest.nodeid import coerce_node_id
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg2 import extensions
from sqlalchemy import Connection, Engine, create_engine, delete, text, update
from werkzeug.routing import Rule

from api.app import create_app
from config import Settings
from jobs.connections import make_cache
from models.database.engine import create_bounded_engine
from models.database.faults import first_line
from models.schema import grants, migrations
from models.schema.tables import event_head, metadata
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.roles import SERVICE
from ops.local.servers import PostgresServer, RedisServer
from tests.api.contract.document import DocumentedClient
from tests.kafka_broker import FIRST_START_S, has_to_fetch, java, kafka_broker, kafka_cluster
from tests.models.ledger.ordering import post_now
from tests.proxy import TcpProxy
from tests.small_redis import ROOMY

# The fixtures that stand elsewhere.
__all__ = ["java", "kafka_broker", "kafka_cluster"]

TEMPLATE = "wallet_template"
ADMIN_PASSWORD = "test-admin"
# Passwords that live for one run need no thousands of rounds, which would be half of what a connection costs.
SERVER_SETTINGS = {"scram_iterations": "1"}
# The longest that a test may take which is not marked as `long`.
LONGEST_S = 20.0

hypothesis_settings.register_profile("quick", max_examples=30, stateful_step_count=20, deadline=None)
hypothesis_settings.register_profile(
    "ci", max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") else "quick")


class Books(NamedTuple):
    """All that the database holds of money."""

    wallets: dict[int, int]
    transfers: list[tuple[Any, ...]]
    entries: list[tuple[Any, ...]]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that nobody waits for it at the end: the rest stays as random as it is."""
    # pytest-xdist writes the group where pytest kept the id until 9.1.
    for item in items:
        if isinstance(grouped := vars(item).get("_nodeid"), str):
            item._id = coerce_node_id(grouped)
        if has_to_fetch(item) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FIRST_START_S))
    items.sort(key=_begins)


def _begins(item: pytest.Item) -> int:
    names = ("long", "stack", "xdist_group")
    return next((place for place, name in enumerate(names) if item.get_closest_marker(name)), len(names))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the line that sums up a failure say what caused it: of an ``Unavailable``, what the database had said."""
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if call.excinfo is not None and crash is not None and (causes := _causes(call.excinfo.value)):
        crash.message += f" (from {'; '.join(map(first_line, causes))})"
    return report


def _causes(error: BaseException) -> list[BaseException]:
    """Return what first_line() is to tell of: what is in a group, or an error that another has caused."""
    if isinstance(error, BaseExceptionGroup):
        return list(error.exceptions)
    return [error] if error.__cause__ is not None else []


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what is there for good: thousands of tests, and all that they import."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # and look through what is new less often


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that took too long. They are no failures: how long a test takes is up to the machine."""
    reports = [each for each in terminalreporter.getreports("passed") if each.when == "call"]
    late = [each for each in reports if each.duration > LONGEST_S and "long" not in each.keywords]
    if late:
        terminalreporter.section(f"above {LONGEST_S:.0f} s, and not marked as long")
        for each in late:
            terminalreporter.line(f"{each.duration:.0f} s  {each.nodeid}")


def _build_urls_lazily() -> None:
    """Have Werkzeug generate the code that builds a rule's URL when one is built, and not when the rule is made.

    Most tests make an application of their own, with 37 rules and two such functions for each, and build no URL at all.
    """
    generate = Rule._compile_builder

    def on_demand(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        @functools.cache
        def generated() -> Callable[..., tuple[str, str]]:
            return generate(rule, append_unknown)

        def build(*arguments: Any, **named: Any) -> tuple[str, str]:
            return generated()(*arguments, **named)

        return build

    Rule._compile_builder = on_demand  # type: ignore[method-assign, assignment]


_build_urls_lazily()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL, with a migrated database to copy."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), settings=SERVER_SETTINGS) as server:
        template = _make_database(server, TEMPLATE, "template0")
        engine = create_engine(_sqlalchemy_url(template))
        migrations.upgrade(engine)
        grants.give(engine, SERVICE)
        engine.dispose()
        yield server
        server.send(signal.SIGQUIT)  # at once: nobody is going to read what a checkpoint would write


def _make_database(server: PostgresServer, name: str, template: str) -> str:
    """Make a database of the owner's, and return its URL."""
    _administer(server, f'CREATE DATABASE "{name}" OWNER wallet TEMPLATE "{template}"')
    return server.url.rpartition("/")[0] + f"/{name}"


def _administer(server: PostgresServer, statement: str) -> None:
    with closing(psycopg2.connect(server.admin_url)) as connection:
        connection.set_isolation_level(extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            cursor.execute(statement)


def _sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="session")
def database_url(postgres_server: PostgresServer) -> str:
    """A migrated database, this test process's alone."""
    return _make_database(postgres_server, "wallet_tests", TEMPLATE)


@pytest.fixture(scope="session")
def service_database_url(postgres_server: PostgresServer, database_url: str) -> str:
    """The same database, for the role that the service has: it may do only what its statements need."""
    return postgres_server.service_url.rpartition("/")[0] + "/" + database_url.rpartition("/")[2]


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> str:
    """A database without any tables, of this test's own: it may be migrated."""
    return _make_database(postgres_server, f"empty_{secrets.token_hex(4)}", "template0")


@pytest.fixture
def own_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated database of this test's alone, whose very tables it may spoil."""
    yield _make_database(postgres_server, "own", TEMPLATE)
    _administer(postgres_server, 'DROP DATABASE "own" WITH (FORCE)')


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis-compatible server."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def settings(service_database_url: str, redis_url: str) -> Settings:
    """Settings for a service on the test run's servers."""
    return Settings.model_validate(
        {
            "database_url": service_database_url,
            "redis_url": redis_url,
            "admin_password": ADMIN_PASSWORD,
            "log_level": "WARNING",
            "grpc_port": "off",
        }
    )


@pytest.fixture(scope="session")
def shared_engine(database_url: str) -> Iterator[Engine]:
    """One engine for the whole test process; ask for ``engine``."""
    timeouts_ms = {"lock_timeout": 5_000, "statement_timeout": 10_000, "idle_in_transaction_session_timeout": 20_000}
    engine = create_bounded_engine(
        _sqlalchemy_url(database_url), timeouts_ms=timeouts_ms, pool_size=20, application_name="tests"
    )
    yield engine
    engine.dispose()


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """An engine on empty tables, for tests that commit."""
    with shared_engine.begin() as connection:
        for table in metadata.tables.values():
            # Whoever deleted a node would have its ids issued again; and there is one head, for good.
            if table.name not in {"snowflake_nodes", "event_head"}:
                connection.execute(delete(table))
        connection.execute(update(event_head).values(last_event=0, forgotten=0))
    return shared_engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction is rolled back, for tests whose data nobody else must see."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def books(engine: Engine) -> Callable[[], Books]:
    """Read the books, past the service."""

    def read() -> Books:
        with engine.connect() as connection:
            wallets = {row.id: row.balance for row in connection.execute(text("SELECT id, balance FROM wallets"))}
            transfers = connection.execute(text("SELECT id, kind, status, amount FROM transfers ORDER BY id")).all()
            entries = connection.execute(
                text("SELECT wallet_id, seq, amount, balance_after FROM entries ORDER BY wallet_id, seq")
            ).all()
        return Books(wallets, [tuple(row) for row in transfers], [tuple(row) for row in entries])

    return read


@pytest.fixture
def settle(engine: Engine, settings: Settings) -> Iterator[Callable[[str], None]]:
    """Post a transfer as a worker would."""

    cache = make_cache(settings, engine)

    def settle(job_id: str) -> None:
        post_now(engine, [int(job_id)], evict=cache.evict)

    yield settle
    cache.close()


@pytest.fixture(scope="session")
def snowflake(shared_engine: Engine) -> Snowflake:
    """A source of transfer ids."""
    return Snowflake(NodeLease(shared_engine))


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty Redis database."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="module")
def small_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose memory is nobody else's."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def small_client(small_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of it, empty, with memory."""
    with redis.Redis.from_url(small_redis.url) as client:
        client.config_set("maxmemory", ROOMY)
        client.flushall()
        yield client


@pytest.fixture
def app(settings: Settings, engine: Engine, redis_client: redis.Redis) -> Iterator[Flask]:
    """The application on empty servers. The engine and the client are asked for to be emptied."""
    del engine, redis_client
    app = create_app(settings)
    app.test_client_class = DocumentedClient
    yield app
    app.extensions["wallet"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the application."""
    return app.test_client()


@pytest.fixture
def postgres_proxy(service_database_url: str) -> Iterator[TcpProxy]:
    """A TCP proxy before PostgreSQL that can lose, hold and break what passes."""
    with TcpProxy.before(service_database_url) as proxy:
        yield proxy


@pytest.fixture
def redis_proxy(redis_url: str) -> Iterator[TcpProxy]:
    """A TCP proxy before Redis that can lose, hold and break what passes."""
    with TcpProxy.before(redis_url) as proxy:
        yield proxy
