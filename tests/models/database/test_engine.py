"""Every wait for the database is bounded, and each of its faults, really caused here, is known for what it is."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database.engine import SILENCE_MARGIN_S, _Deadline, create_bounded_engine, fetch_all
from models.database.faults import FaultScope, first_line, is_conflict, is_connection_lost, scope_of, sqlstate
from models.errors import Unavailable
from ops.local.processes import wait_for
from tests.models.ledger.ordering import PATIENCE_S, bounded_engine, count_waiting
from tests.proxy import TcpProxy

BACKEND = text("SELECT pg_backend_pid()")
SELECT_1, SELECT_7 = text("SELECT 1"), text("SELECT 7")

Fault = Callable[[], object]


def caught(fault: Fault) -> DBAPIError:
    with pytest.raises(DBAPIError) as error:
        fault()
    return error.value


@pytest.fixture
def two_wallets(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) VALUES (1), (2)"))


# What a fault is


def test_a_backend_that_was_terminated_is_the_batchs_fault(engine: Engine, database_url: str) -> None:
    def be_terminated() -> None:
        with bounded_engine(database_url) as victim, victim.connect() as connection:
            backend = connection.execute(BACKEND).scalar_one()
            with engine.connect() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
            connection.execute(SELECT_1)

    error = caught(be_terminated)
    assert sqlstate(error) in {"57P01", None}  # None: the connection was reset before its last words were read
    assert scope_of(error) is FaultScope.BATCH
    assert is_connection_lost(error)
    assert not is_conflict(error)


@pytest.mark.usefixtures("two_wallets")
def test_a_deadlock_is_the_batchs_fault_and_a_conflict(database_url: str) -> None:
    lock = text("SELECT FROM wallets WHERE id = :id FOR UPDATE")
    both_hold = threading.Barrier(2, timeout=PATIENCE_S)

    def embrace(first: int, second: int) -> DBAPIError | None:
        with circle.connect() as connection:
            try:
                connection.execute(lock, {"id": first})
                both_hold.wait()
                connection.execute(lock, {"id": second})
            except DBAPIError as error:
                return error
            return None

    with (
        bounded_engine(database_url, lock_ms=20_000, statement_ms=20_000, idle_ms=20_000) as circle,
        ThreadPoolExecutor(2) as pool,
    ):
        found = list(pool.map(embrace, (1, 2), (2, 1)))
    (error,) = [each for each in found if each is not None]

    assert sqlstate(error) == "40P01"
    assert scope_of(error) is FaultScope.BATCH
    assert is_conflict(error)
    assert not is_connection_lost(error)


@pytest.mark.usefixtures("two_wallets")
@pytest.mark.parametrize(("bounds", "code"), [({"lock_ms": 30}, "55P03"), ({"statement_ms": 30}, "57014")])
def test_a_locked_wallet_is_the_transfers_fault(
    engine: Engine, database_url: str, bounds: dict[str, int], code: str
) -> None:
    lock = text("SELECT FROM wallets WHERE id = 1 FOR UPDATE")

    def wait_in_vain() -> None:
        with bounded_engine(database_url, **bounds) as impatient, impatient.connect() as connection:
            connection.execute(lock)

    with engine.connect() as holder:
        holder.execute(lock)
        error = caught(wait_in_vain)
        holder.rollback()
    assert sqlstate(error) == code
    assert scope_of(error) is FaultScope.TRANSFER
    assert not is_conflict(error)
    assert not is_connection_lost(error)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("INSERT INTO wallets (id, balance) VALUES (1, -1)", "23514"),  # a CHECK
        ("SELECT 1 / 0", "22012"),
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", "P0001"),  # a trigger's
        ("SELECT FROM nowhere", "42P01"),
    ],
)
def test_a_statement_that_cannot_work_is_the_transfers_fault(engine: Engine, statement: str, code: str) -> None:
    def execute() -> None:
        with engine.connect() as connection:
            connection.execute(text(statement))

    error = caught(execute)
    assert sqlstate(error) == code
    assert scope_of(error) is FaultScope.TRANSFER
    assert not is_connection_lost(error)


def test_idling_in_a_transaction_is_ended_and_the_batchs_fault(engine: Engine, database_url: str) -> None:
    def idle() -> None:
        with bounded_engine(database_url, idle_ms=50) as paused, paused.connect() as connection:
            backend = connection.execute(BACKEND).scalar_one()
            assert wait_for(lambda: not is_alive(engine, backend), PATIENCE_S)
            connection.execute(SELECT_1)

    error = caught(idle)
    assert sqlstate(error) in {"25P03", None}
    assert scope_of(error) is FaultScope.BATCH


def is_alive(engine: Engine, backend: int) -> bool:
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        return bool(connection.execute(query, {"pid": backend}).scalar_one())


def test_a_server_that_cannot_be_reached_is_the_batchs_fault(postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    with bounded_engine(postgres_proxy.url) as engine:
        error = caught(lambda: engine.connect().close())
    assert sqlstate(error) is None
    assert scope_of(error) is FaultScope.BATCH
    assert is_connection_lost(error)


def test_a_port_that_nobody_listens_on_is_the_batchs_fault() -> None:
    with bounded_engine("postgresql://wallet@127.0.0.1:1/wallet") as engine:
        error = caught(lambda: engine.connect().close())
    assert scope_of(error) is FaultScope.BATCH


def test_a_server_with_too_many_clients_is_the_batchs_fault(engine: Engine, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    try:
        with bounded_engine(database_url) as refused:
            error = caught(lambda: refused.connect().close())
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert scope_of(error) is FaultScope.BATCH


def test_a_broken_connection_is_the_batchs_fault(postgres_proxy: TcpProxy) -> None:
    def be_cut() -> None:
        with bounded_engine(postgres_proxy.url) as engine, engine.connect() as connection:
            connection.execute(SELECT_1)
            postgres_proxy.break_all()
            connection.execute(SELECT_1)

    error = caught(be_cut)
    assert scope_of(error) is FaultScope.BATCH
    assert is_connection_lost(error)


def test_an_exhausted_pool_is_the_batchs_fault(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.database.engine.POOL_TIMEOUT_S", 0.05)
    with bounded_engine(database_url, pool_size=1) as engine, engine.connect():
        with pytest.raises(PoolTimeoutError) as error:
            engine.connect()
        assert scope_of(error.value) is FaultScope.BATCH
        with pytest.raises(Unavailable):
            fetch_all(engine, SELECT_1)


def test_an_error_without_a_code_that_is_no_lost_connection_is_the_transfers_fault() -> None:
    error = DBAPIError("SELECT 1", {}, psycopg2.ProgrammingError("can't adapt type 'object'"))
    assert scope_of(error) is FaultScope.TRANSFER


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("08006", FaultScope.BATCH),
        ("53300", FaultScope.BATCH),  # too many connections
        ("53100", FaultScope.BATCH),  # disk full
        ("57P01", FaultScope.BATCH),
        ("57P03", FaultScope.BATCH),  # starting up
        ("40001", FaultScope.BATCH),
        ("40P01", FaultScope.BATCH),
        ("25P03", FaultScope.BATCH),
        ("25P04", FaultScope.BATCH),
        ("25P02", FaultScope.TRANSFER),
        ("57014", FaultScope.TRANSFER),
        ("55P03", FaultScope.TRANSFER),
        ("54001", FaultScope.TRANSFER),
        ("23514", FaultScope.TRANSFER),
        ("22003", FaultScope.TRANSFER),
    ],
)
def test_the_sqlstate_decides_whose_fault_it_is(code: str, scope: FaultScope) -> None:
    class Orig(psycopg2.OperationalError):
        pgcode = code

    assert scope_of(DBAPIError("SELECT 1", {}, Orig())) is scope


def test_an_error_is_told_in_one_line_without_its_statement(engine: Engine) -> None:
    def violate() -> None:
        with engine.connect() as connection:
            connection.execute(text("INSERT INTO wallets (id, balance) VALUES (1, -4711)"))

    error = caught(violate)
    message = 'new row for relation "wallets" violates check constraint "wallets_balance_not_negative"'
    assert first_line(error) == f"CheckViolation: {message}"
    unavailable = Unavailable()
    unavailable.__cause__ = error
    assert first_line(unavailable) == first_line(error)
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"


def test_an_error_does_not_show_what_was_in_the_statement(engine: Engine) -> None:
    def violate() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 / (:secret - :secret)"), {"secret": 4711})

    assert "4711" not in str(caught(violate))


# How long a wait can last


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
    monkeypatch.setattr("models.database.engine.CONNECT_TIMEOUT_S", 1.0)
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
    assert scope_of(error) is FaultScope.BATCH
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
    assert scope_of(error) is FaultScope.BATCH
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
