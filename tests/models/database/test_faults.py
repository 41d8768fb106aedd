"""Each fault of the database, really caused here, is known for what it is."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database.engine import fetch_all
from models.database.faults import (
    first_line,
    is_about_content,
    is_conflict,
    is_connection_lost,
    is_passing,
    lacks_room,
    sqlstate,
)
from models.errors import Unavailable
from ops.local.processes import wait_for
from tests.models.database.catching import caught
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

BACKEND = text("SELECT pg_backend_pid()")
SELECT_1, SELECT_7 = text("SELECT 1"), text("SELECT 7")


@pytest.fixture
def two_wallets(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) VALUES (1), (2)"))


# What a fault is


def test_a_backend_that_was_terminated_is_a_fault_that_passes(engine: Engine, database_url: str) -> None:
    def be_terminated() -> None:
        with bounded_engine(database_url) as victim, victim.connect() as connection:
            backend = connection.execute(BACKEND).scalar_one()
            with engine.connect() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
            connection.execute(SELECT_1)

    error = caught(be_terminated)
    assert sqlstate(error) in {"57P01", None}  # None: the connection was reset before its last words were read
    assert is_passing(error)
    assert is_connection_lost(error)
    assert not is_conflict(error)


@pytest.mark.usefixtures("two_wallets")
def test_a_deadlock_passes_and_is_a_conflict(database_url: str) -> None:
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
    assert is_passing(error)
    assert is_conflict(error)
    assert not is_connection_lost(error)


@pytest.mark.usefixtures("two_wallets")
@pytest.mark.parametrize(("bounds", "code"), [({"lock_ms": 30}, "55P03"), ({"statement_ms": 30}, "57014")])
def test_a_locked_wallet_is_no_fault_that_passes(
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
    assert not is_passing(error)
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
def test_a_statement_that_cannot_work_is_no_fault_that_passes(engine: Engine, statement: str, code: str) -> None:
    def execute() -> None:
        with engine.connect() as connection:
            connection.execute(text(statement))

    error = caught(execute)
    assert sqlstate(error) == code
    assert not is_passing(error)
    assert not is_connection_lost(error)


def test_idling_in_a_transaction_is_ended_and_passes(engine: Engine, database_url: str) -> None:
    def idle() -> None:
        with bounded_engine(database_url, idle_ms=50) as paused, paused.connect() as connection:
            backend = connection.execute(BACKEND).scalar_one()
            assert wait_for(lambda: not is_alive(engine, backend), PATIENCE_S)
            connection.execute(SELECT_1)

    error = caught(idle)
    assert sqlstate(error) in {"25P03", None}
    assert is_passing(error)


def is_alive(engine: Engine, backend: int) -> bool:
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        return bool(connection.execute(query, {"pid": backend}).scalar_one())


def test_a_server_that_cannot_be_reached_is_a_fault_that_passes(postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    with bounded_engine(postgres_proxy.url) as engine:
        error = caught(lambda: engine.connect().close())
    assert sqlstate(error) is None
    assert is_passing(error)
    assert is_connection_lost(error)


def test_a_port_that_nobody_listens_on_is_a_fault_that_passes() -> None:
    with bounded_engine("postgresql://wallet@127.0.0.1:1/wallet") as engine:
        error = caught(lambda: engine.connect().close())
    assert is_passing(error)


def test_a_server_with_too_many_clients_is_a_fault_that_passes(engine: Engine, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    try:
        with bounded_engine(database_url) as refused:
            error = caught(lambda: refused.connect().close())
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert is_passing(error)


def test_a_broken_connection_is_a_fault_that_passes(postgres_proxy: TcpProxy) -> None:
    def be_cut() -> None:
        with bounded_engine(postgres_proxy.url) as engine, engine.connect() as connection:
            connection.execute(SELECT_1)
            postgres_proxy.break_all()
            connection.execute(SELECT_1)

    error = caught(be_cut)
    assert is_passing(error)
    assert is_connection_lost(error)


def test_an_exhausted_pool_makes_the_database_unavailable(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.database.pool.TIMEOUT_S", 0.05)
    with bounded_engine(database_url, pool_size=1) as engine, engine.connect():
        with pytest.raises(PoolTimeoutError):
            engine.connect()
        with pytest.raises(Unavailable):
            fetch_all(engine, SELECT_1)


def test_an_error_without_a_code_that_is_no_lost_connection_is_no_fault_that_passes() -> None:
    error = DBAPIError("SELECT 1", {}, psycopg2.ProgrammingError("can't adapt type 'object'"))
    assert not is_passing(error)


class Orig(psycopg2.OperationalError):
    """The driver's, with a SQLSTATE to choose."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    @property
    def pgcode(self) -> str:  # type: ignore[override]
        return self.code


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("08006", True),
        ("53300", True),  # too many connections
        ("53100", True),  # disk full
        ("57P01", True),
        ("57P03", True),  # starting up
        ("40001", True),
        ("40P01", True),
        ("25P03", True),
        ("25P04", True),
        ("25P02", False),
        ("57014", False),
        ("55P03", False),
        ("54001", False),
        ("23514", False),
        ("22003", False),
    ],
)
def test_the_sqlstate_tells_what_usually_passes(code: str, passes: bool) -> None:
    assert is_passing(DBAPIError("SELECT 1", {}, Orig(code))) is passes


@pytest.mark.parametrize(
    ("code", "about_content", "room"),
    [
        ("22003", True, False),
        ("23505", True, False),
        ("23514", True, False),
        ("P0001", True, False),
        ("53100", False, True),
        ("53200", False, True),
        ("42501", False, False),  # the privilege is missing, whatever is written
        ("25006", False, False),  # a standby takes no writes
        ("55P03", False, False),
        ("57014", False, False),
    ],
)
def test_the_sqlstate_tells_what_was_refused_for_its_content_and_what_for_want_of_room(
    code: str, *, about_content: bool, room: bool
) -> None:
    error = DBAPIError("SELECT 1", {}, Orig(code))
    assert (is_about_content(error), lacks_room(error)) == (about_content, room)


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
