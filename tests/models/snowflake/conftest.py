"""Nodes of the tests' own, and processes that draw ids from them."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from models.snowflake.leases import (
    LEASE_S,
)
from tests.models.snowflake.leasing import SCHEMA, Cable, reset
from tests.models.snowflake.snowflake_child import Process
from tests.proxy import TcpProxy


@pytest.fixture
def database(engine: Engine) -> Iterator[Engine]:
    """Return a database whose nodes are all free and unused, as the migration left them."""
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.execute(
            text(f"CREATE TABLE IF NOT EXISTS {SCHEMA}.snowflake_nodes (LIKE snowflake_nodes INCLUDING ALL)")
        )
    options = f"-csearch_path={SCHEMA} -clock_timeout=5000"
    database = create_engine(engine.url.update_query_dict({"options": options}))
    reset(database)
    yield database
    database.dispose()


@pytest.fixture
def cable(database: Engine, postgres_proxy: TcpProxy) -> Cable:
    """Return a way to the same database that can be cut."""
    return Cable(database, postgres_proxy)


@pytest.fixture
def start_process(database: Engine) -> Iterator[Callable[[float], Process]]:
    """Return what starts processes, all of which end with the test."""
    started: list[Process] = []

    def start(lease_s: float = LEASE_S) -> Process:
        started.append(Process(database, lease_s))
        return started[-1]

    yield start
    for process in started:
        process.end()
