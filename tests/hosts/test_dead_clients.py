"""PostgreSQL ends a session whose client's host is gone in bounded time, whatever it is at, and lets go its locks."""

import select
from contextlib import closing

import psycopg2
import pytest
from psycopg2 import extensions
from sqlalchemy import Engine

from config import Settings
from jobs.connections import make_engine
from tests.hosts.service import Service, until

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.xdist_group("hosts")]

NAME = "gone"
# More than all buffers on the way take.
_MUCH = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
# What a session is at, and waits for.
IDLE, IN_TRANSACTION, SENDING = ("idle", "ClientRead"), ("idle in transaction", "ClientRead"), ("active", "ClientWrite")


def connect(engine: Engine) -> extensions.connection:
    """Connect as the service does, but with nobody who waits for an answer, or takes it."""
    with engine.connect() as ours:
        assert ours.connection.driver_connection is not None
        parameters = ours.connection.driver_connection.info.dsn_parameters
    password = engine.url.password
    connection: extensions.connection = psycopg2.connect(**parameters, password=password, async_=1)
    while (state := connection.poll()) != extensions.POLL_OK:
        line = [connection.fileno()]
        select.select(*((line, [], []) if state == extensions.POLL_READ else ([], line, [])))
    return connection


def at(service: Service) -> set[tuple[str, str]]:
    found = service.query("SELECT state, wait_event FROM pg_stat_activity WHERE application_name = %s", NAME)
    return {(row["state"], row["wait_event"]) for row in found}


def test_a_session_whose_client_is_gone_ends_whatever_it_is_at(service: Service) -> None:
    engine = make_engine(Settings.model_validate(service.environment()), application_name=NAME, pool_size=2)
    with closing(connect(engine)) as sending, engine.connect() as in_transaction, engine.connect():
        in_transaction.exec_driver_sql("SELECT 1 FROM wallets FOR UPDATE")
        sending.cursor().execute(_MUCH)
        with service.database_host.namespace.entered():
            until(lambda: at(service) == {IDLE, IN_TRANSACTION, SENDING}, "each is at what it is to be at")
            with service.clients_host.cut_off():
                until(lambda: not at(service), "all are ended")
        in_transaction.invalidate()  # there is nothing to roll back
    engine.dispose()
