"""Every wait for the database is bounded, and a lost connection costs no more than another try."""

import socket
import threading
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Engine, text

from models.database.connecting import ASKED_AFTER_S, GONE_AFTER_S
from models.database.engine import (
    SILENCE_MARGIN_S,
    TICK_S,
    _Deadline,
    commit_without_waiting,
    create_bounded_engine,
    fetch_all,
    transaction,
    while_waiting,
)
from models.database.faults import is_connection_lost, is_passing, sqlstate
from models.errors import Unavailable
from tests.models.database.catching import caught
from tests.models.ledger.ordering import bounded_engine, count_waiting
from tests.proxy import TcpProxy

BACKEND = text("SELECT pg_backend_pid()")
SELECT_1, SELECT_7 = text("SELECT 1"), text("SELECT 7")


def test_the_bounds_are_set_on_every_connection(database_url: str) -> None:
    shown = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "application_name")
    with (
        bounded_engine(database_url, lock_ms=1_234, statement_ms=2_345, idle_ms=3_456, pool_size=2) as engine,
        engine.connect() as one,
        engine.connect() as other,
    ):
        for connection in (one, other):
            values = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in shown]
            assert values == ["1234ms", "2345ms", "3456ms", "bounded"]
            # An abandoned statement ends on the server too.
            assert connection.exec_driver_sql("SHOW client_connection_check_interval").scalar_one() == "1s"
            # And whatever a client leaves that is gone with its machine.
            assert connection.exec_driver_sql("SHOW tcp_user_timeout").scalar_one() == str(GONE_AFTER_S * 1000)
            assert connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar_one() == str(ASKED_AFTER_S)


@pytest.mark.parametrize(("hastens", "setting"), [(True, "off"), (False, "on")])
def test_commits_wait_for_the_disk_unless_told_otherwise(database_url: str, setting: str, *, hastens: bool) -> None:
    with bounded_engine(database_url, pool_size=1) as engine:
        if hastens:
            commit_without_waiting(engine)
        for _ in range(2):
            with transaction(engine) as connection:
                assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == setting


def test_making_an_engine_connects_to_nothing() -> None:
    with bounded_engine("postgresql://nobody@127.0.0.1:1/nowhere") as engine:
        assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]


@pytest.fixture
def unbounded() -> Iterator[None]:
    """Psycopg2 as nobody has changed it yet, and afterwards as it was."""
    waiting = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    yield
    psycopg2.extensions.set_wait_callback(waiting)


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize("statement_timeouts_ms", [(100, 3_000), (3_000, 100)])
def test_of_several_engines_the_most_patient_sets_the_bound_for_silence(
    statement_timeouts_ms: tuple[int, int],
) -> None:
    """What psycopg2 waits by is process-wide: an impatient engine must not cut off another one's statements."""
    for statement_ms in statement_timeouts_ms:
        timeouts_ms = {"statement_timeout": statement_ms}
        create_bounded_engine("postgresql+psycopg2://", timeouts_ms=timeouts_ms, pool_size=1, application_name="a")
    waiting = psycopg2.extensions.get_wait_callback()
    assert waiting is not None
    assert waiting.silence_s == 3.0 + SILENCE_MARGIN_S


@pytest.fixture
def impatient(postgres_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine through the proxy that takes one and a half seconds of silence for a server's death."""
    monkeypatch.setattr("models.database.connecting.CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("models.database.engine.SILENCE_MARGIN_S", 1.0)
    with bounded_engine(postgres_proxy.url, statement_ms=500, pool_size=1) as engine:
        yield engine


def assert_good_as_new(engine: Engine, proxy: TcpProxy, old_backend: int | None) -> None:
    """The connection that hung is not in the pool any more, nor does it block its only place."""
    proxy.break_all()
    proxy.resume()
    with engine.connect() as connection:
        assert connection.execute(BACKEND).scalar_one() != old_backend


def test_connecting_to_a_server_that_hangs_ends(impatient: Engine, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.hold()
    error = caught(lambda: impatient.connect().close())
    assert "the server has stopped answering" in str(error)
    assert is_passing(error)
    assert is_connection_lost(error)
    assert_good_as_new(impatient, postgres_proxy, None)


@pytest.mark.parametrize("hang_at", ["execute", "commit", "rollback"])
def test_a_server_that_hangs_loses_the_connection_and_nothing_else(
    impatient: Engine, postgres_proxy: TcpProxy, hang_at: str
) -> None:
    backends: list[int] = []

    def hang() -> None:
        with impatient.connect() as connection:
            backends.append(connection.execute(BACKEND).scalar_one())
            postgres_proxy.hold()
            if hang_at == "execute":
                connection.execute(SELECT_1)
            else:
                getattr(connection, hang_at)()

    error = caught(hang)
    assert "the server has stopped answering" in str(error)
    assert error.connection_invalidated
    assert is_passing(error)
    assert is_connection_lost(error)
    assert_good_as_new(impatient, postgres_proxy, backends[0])


def test_a_server_that_dribbles_without_an_end_is_given_up() -> None:
    """Not even one that goes on sending, but never a whole answer, holds a thread for ever."""

    class Dribbling:
        status = psycopg2.extensions.STATUS_READY

        def __init__(self, readable: socket.socket) -> None:
            self.fileno = readable.fileno

        def poll(self) -> int:
            return psycopg2.extensions.POLL_READ

    here, there = socket.socketpair()
    with here, there:
        there.send(b"always something to read")
        with pytest.raises(psycopg2.OperationalError, match="the server has stopped answering"):
            _Deadline(0.05)(Dribbling(here))  # type: ignore[arg-type]


def test_a_thread_does_something_meanwhile_for_as_long_as_a_statement_runs(database_url: str) -> None:
    calls: list[str] = []
    with bounded_engine(database_url, statement_ms=20_000) as engine, engine.connect() as connection:
        with while_waiting(lambda: calls.append(threading.current_thread().name)):
            connection.execute(SELECT_1)
            assert calls == []
            connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 2.5 * TICK_S})
        assert calls == [threading.current_thread().name] * len(calls) != []
        count = len(calls)
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 2.5 * TICK_S})
    assert len(calls) == count


def test_a_server_that_is_silent_is_given_up_whatever_is_done_meanwhile(
    postgres_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.database.engine.TICK_S", 0.05)
    calls: list[None] = []
    with bounded_engine(postgres_proxy.url, statement_ms=100) as engine, engine.connect() as connection:
        connection.execute(SELECT_1)
        postgres_proxy.hold()
        with while_waiting(lambda: calls.append(None)):
            error = caught(lambda: connection.execute(SELECT_1))
        postgres_proxy.break_all()
        postgres_proxy.resume()
    assert "the server has stopped answering" in str(error)
    assert calls


def test_giving_a_connection_back_to_the_pool_while_the_server_hangs_ends(
    impatient: Engine, postgres_proxy: TcpProxy
) -> None:
    """What the pool does by itself, a rollback, is bounded as well."""
    connection = impatient.raw_connection()
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    row = cursor.fetchone()
    assert row is not None
    postgres_proxy.hold()
    connection.close()
    assert_good_as_new(impatient, postgres_proxy, row[0])


def test_a_slow_statement_is_not_taken_for_a_hanging_server(database_url: str) -> None:
    """statement_timeout strikes first, on the server: the connection survives."""
    with bounded_engine(database_url, statement_ms=200) as engine, engine.connect() as connection:
        error = caught(lambda: connection.execute(text("SELECT pg_sleep(30)")))
        assert sqlstate(error) == "57014"
        connection.rollback()
        assert connection.execute(SELECT_1).scalar_one() == 1


# Reads


def test_a_read_survives_connections_that_died_in_the_pool(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url, pool_size=3) as engine:
        with engine.connect() as one, engine.connect() as two, engine.connect() as three:
            for connection in (one, two, three):
                connection.execute(SELECT_1)
        postgres_proxy.break_all()
        assert fetch_all(engine, SELECT_7)[0][0] == 7


def test_a_connection_that_died_in_the_pool_is_replaced_before_it_is_used(postgres_proxy: TcpProxy) -> None:
    """Not even a transaction, which nobody tries again, notices."""
    with bounded_engine(postgres_proxy.url, pool_size=1) as engine:
        with engine.begin() as connection:
            dead = connection.execute(BACKEND).scalar_one()
        postgres_proxy.break_all()
        with engine.begin() as connection:
            assert connection.execute(BACKEND).scalar_one() != dead


def test_a_connection_that_lives_is_used_again(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url, pool_size=1) as engine:
        backends = set()
        for _ in range(3):
            with engine.begin() as connection:
                backends.add(connection.execute(BACKEND).scalar_one())
        assert len(backends) == 1


def test_a_read_is_sent_by_itself_without_a_transaction(postgres_proxy: TcpProxy) -> None:
    requests: list[bytes] = []
    with bounded_engine(postgres_proxy.url) as engine:
        fetch_all(engine, SELECT_1)
        postgres_proxy.lose_reply_to(lambda data: bool(requests.append(data)))  # type: ignore[func-returns-value]
        fetch_all(engine, SELECT_7)
    sent = b" ".join(requests)
    assert b"SELECT 7" in sent
    assert b"BEGIN" not in sent
    assert b"COMMIT" not in sent
    assert b"ROLLBACK" not in sent


def test_a_read_of_a_server_that_is_away_is_unavailable(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url) as engine:
        fetch_all(engine, SELECT_1)
        postgres_proxy.refuse()
        with pytest.raises(Unavailable):
            fetch_all(engine, SELECT_1)
        postgres_proxy.refuse(refusing=False)
        assert len(fetch_all(engine, SELECT_1)) == 1


def test_a_read_that_takes_too_long_is_unavailable_and_not_repeated(engine: Engine, database_url: str) -> None:
    with bounded_engine(database_url, statement_ms=100) as impatient:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SEQUENCE tries")
        try:
            with pytest.raises(Unavailable):
                fetch_all(impatient, text("SELECT nextval('tries'), pg_sleep(30)"))
            with engine.connect() as connection:
                assert connection.execute(text("SELECT last_value FROM tries")).scalar_one() == 1
        finally:
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP SEQUENCE tries")


def test_nothing_is_left_waiting(engine: Engine) -> None:
    assert count_waiting(engine) == 0
