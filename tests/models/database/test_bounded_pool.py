"""One set of connections for a process: never more than so many, none idle for long, none for ever."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database import pool as pools
from models.database.engine import create_bounded_engine
from models.database.pool import BoundedPool
from models.database.session import Session, Statement
from models.errors import Fault, Refused
from models.ledger.history import History
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.ordering import bounded_engine, deposit, later, post_now, transfer
from tests.patience import PATIENCE_S

SIZE = 4
BACKEND = Statement("backend", ("int",), "SELECT pg_backend_pid() + $1")
WRITE = Statement("write", ("int",), "SELECT pg_current_xact_id(), $1")
FAIL = Statement("fail", ("int",), "SELECT 1 / $1")


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def own(engine: Engine) -> Iterator[Engine]:
    with bounded_engine(url_of(engine), pool_size=SIZE) as own:
        yield own


def pool_of(engine: Engine) -> BoundedPool:
    assert isinstance(engine.pool, BoundedPool)
    return engine.pool


def count_open(engine: Engine) -> int:
    """How many connections the engines of these tests have, as PostgreSQL counts."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bounded'")
    with engine.connect() as connection:
        count: int = connection.execute(query).scalar_one()
        return count


def backend(engine: Engine) -> int:
    with Session(engine) as session:
        return int(session.rows(BACKEND, 0)[0][0])


def free_seats(engine: Engine) -> int:
    return pool_of(engine)._seats._value


# How many


def test_engines_and_sessions_share_their_connections(engine: Engine, own: Engine) -> None:
    pid = backend(own)
    with own.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() == pid
        assert backend(own) != pid  # in use
    assert count_open(engine) == 2


def test_a_session_is_left_as_sqlalchemy_wants_it_and_the_other_way_round(own: Engine) -> None:
    with Session(own) as session:
        session.rows(BACKEND, 0)
    with own.begin() as connection:  # the same connection, and a transaction all the same
        connection.execute(text("CREATE TEMPORARY TABLE seen ON COMMIT DROP AS SELECT 1"))
        connection.execute(text("SELECT * FROM seen"))
    with own.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("SELECT 1"))
    with Session(own) as session:
        session.begin()
        session.rows(WRITE, 0)
    with own.connect() as connection:
        assert connection.execute(text("SELECT pg_current_xact_id_if_assigned() IS NULL")).scalar_one()


def test_the_connection_used_last_is_used_next(own: Engine) -> None:
    with own.connect() as one, own.connect() as other:
        pids = [each.execute(text("SELECT pg_backend_pid()")).scalar_one() for each in (one, other)]
    assert backend(own) == backend(own)
    assert backend(own) in pids


def test_who_finds_none_free_is_refused_in_time_and_the_seat_is_not_lost(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "TIMEOUT_S", 0.05)
    with own.connect(), own.connect(), own.connect(), own.connect():
        for take in (own.connect, lambda: Session(own).__enter__()):
            with pytest.raises(PoolTimeoutError):
                take()
    assert free_seats(own) == SIZE


def test_no_fault_loses_a_seat(engine: Engine, own: Engine) -> None:
    def fail() -> None:
        with Session(own) as session:
            session.begin()
            session.rows(FAIL, 0)

    def raise_unexpected() -> None:
        with Session(own) as session:
            session.begin()
            session.rows(BACKEND, 0)
            raise ZeroDivisionError

    def terminate() -> None:
        with engine.begin() as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bounded'"
            connection.execute(text(query))
        backend(own)

    for _ in range(3 * SIZE):
        for fault in (fail, raise_unexpected, terminate):
            with suppress(Exception):  # whatever it is: it is the seat that counts
                fault()
    assert free_seats(own) == SIZE
    assert count_open(engine) <= SIZE
    with bounded_engine("postgresql://nobody@127.0.0.1:1/nowhere", pool_size=1) as nowhere:
        for _ in range(3):
            with pytest.raises(Exception, match="refused"), Session(nowhere):
                pass
        assert free_seats(nowhere) == 1


@pytest.mark.long
def test_a_lock_storm_leaves_no_more_connections_than_allowed_and_everything_is_served_afterwards(
    engine: Engine, snowflake: Snowflake
) -> None:
    size = 8
    with bounded_engine(url_of(engine), pool_size=size) as own, ThreadPoolExecutor(91) as pool:
        orders, history = Orders(own, snowflake), History(own)
        for user in range(1, 6):
            orders.execute(deposit(user, 10_000))
        most = 0
        is_over = threading.Event()

        def watch() -> None:
            nonlocal most
            while not is_over.wait(0.05):
                most = max(most, count_open(engine))

        def storm(calls: list[Callable[[], object]]) -> None:
            with engine.begin() as holder:
                holder.execute(text("LOCK TABLE wallets IN ACCESS EXCLUSIVE MODE"))
                running = [pool.submit(attempt, each) for each in calls]
                time.sleep(1.6)
            for each in running:
                each.result(PATIENCE_S)

        def attempt(call: Callable[[], object]) -> None:
            with suppress(Fault, Refused):
                call()

        watcher = pool.submit(watch)
        for _ in range(2):
            storm([lambda: orders.execute(transfer(1, 1, 1))] * 90)
            storm([lambda: history.get_balance(2)] * 90)
            given = [later(user % 5 + 1, (user + 1) % 5 + 1, 1) for user in range(90)]
            storm([partial(orders.execute, each) for each in given])
            storm([partial(orders.accept, each) for each in given])
        is_over.set()
        watcher.result(PATIENCE_S)
        assert 0 < most <= size
        assert count_open(engine) <= size
        assert free_seats(own) == size
        for _ in range(20):
            orders.execute(transfer(1, 2, 1))
            history.get_balance(1)
    check_books(engine)


# For how long


def fill(engine: Engine) -> None:
    """Have all of its connections open, and none in use."""
    held = [engine.connect() for _ in range(SIZE)]
    for each in held:
        each.close()


def test_what_nobody_wants_any_more_is_closed(engine: Engine, monkeypatch: pytest.MonkeyPatch, own: Engine) -> None:
    monkeypatch.setattr(pools, "MOST_IDLE_S", 0.3)
    fill(own)
    assert count_open(engine) == SIZE
    assert wait_for(lambda: count_open(engine) == 0, PATIENCE_S)  # without anything being asked
    assert pool_of(own).checkedin() == 0
    fill(own)  # and again
    assert wait_for(lambda: count_open(engine) == 0, PATIENCE_S)


def test_what_is_in_use_now_and_then_stays_and_the_rest_goes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, own: Engine
) -> None:
    monkeypatch.setattr(pools, "MOST_IDLE_S", 0.5)
    fill(own)
    pid = backend(own)
    deadline = time.monotonic() + PATIENCE_S
    while count_open(engine) > 1:
        assert time.monotonic() < deadline
        assert backend(own) == pid
        time.sleep(0.05)
    assert backend(own) == pid


def test_a_connection_that_is_old_is_replaced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.database.engine.MOST_AGE_S", 1)
    with bounded_engine(url_of(engine), pool_size=1) as own:
        pid = backend(own)
        assert backend(own) == pid
        time.sleep(1.1)
        assert backend(own) != pid
        with own.connect() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        time.sleep(1.1)
        with own.connect() as connection:
            assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid
        assert count_open(engine) == 1


def test_a_pool_that_was_disposed_of_closes_what_comes_back(engine: Engine, own: Engine) -> None:
    fill(own)
    disposed = pool_of(own)
    used = own.connect()
    session = Session(own).__enter__()
    own.dispose()
    assert wait_for(lambda: count_open(engine) == 2, PATIENCE_S)
    used.close()
    session.__exit__(None, None, None)
    assert wait_for(lambda: count_open(engine) == 0, PATIENCE_S)
    assert disposed.checkedin() == 0
    backend(own)  # and the engine goes on with another one
    assert count_open(engine) == 1


# How they are made


def made(url: str) -> Engine:
    timeouts_ms = {"statement_timeout": 5_000, "lock_timeout": 1_234}
    return create_bounded_engine(url, timeouts_ms=timeouts_ms, pool_size=1, application_name="ours")


def shown(engine: Engine, *names: str) -> list[str]:
    try:
        with engine.connect() as connection:
            return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["ours", "4MB", "1234ms"]),
        ("?application_name=theirs", ["theirs", "4MB", "1234ms"]),
        ("?options=-c%20work_mem%3D8MB", ["ours", "8MB", "1234ms"]),
        ("?options=-c%20work_mem%3D8MB&application_name=theirs", ["theirs", "8MB", "1234ms"]),
        ("?options=-c%20lock_timeout%3D9s", ["ours", "4MB", "1234ms"]),  # ours is what the service rests on
    ],
)
def test_what_the_url_says_of_a_session_is_kept(engine: Engine, query: str, expected: list[str]) -> None:
    assert shown(made(url_of(engine) + query), "application_name", "work_mem", "lock_timeout") == expected


def test_the_isolation_level_is_ours_whatever_the_urls(engine: Engine) -> None:
    url = url_of(engine) + "?options=-c%20default_transaction_isolation%3Dserializable"
    assert shown(made(url), "transaction_isolation") == ["read committed"]


def test_the_isolation_level_is_ours_whatever_the_databases(own_database_url: str) -> None:
    def alter(setting: str) -> None:
        connection: Any = psycopg2.connect(own_database_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE own {setting}")
        connection.close()

    alter("SET default_transaction_isolation = serializable")
    engine = made(own_database_url.replace("postgresql://", "postgresql+psycopg2://"))
    with Session(engine) as session:
        level = Statement("level", ("int",), "SELECT current_setting('transaction_isolation') WHERE $1 = 0")
        session.begin()
        assert session.rows(level, 0) == [("read committed",)]
    assert shown(engine, "transaction_isolation") == ["read committed"]


# What is prepared


WALLETS = 200_000
TABLES = ["wallets", "transfers", "entries"]
# Rows of a table that all of that needs, with room to spare.
FEW = 500
FILLING = (
    "INSERT INTO wallets (id) SELECT * FROM generate_series(3, :last)",
    """
    INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, completed_at)
    SELECT id, 'deposit', id, 1, 'posted', 1, now() FROM generate_series(3, :last) AS id
    """,
    """
    INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after, created_at)
    SELECT id, 1, id, 1, 1, 1, now() FROM generate_series(3, :last) AS id
    """,
    """
    INSERT INTO transfers (id, kind, source, destination, amount)
    SELECT :last + id, 'transfer', 3, 4, 1 FROM generate_series(1, :last / 10) AS id
    """,
)


@pytest.mark.parametrize("analyzed", ["empty", "with two wallets in them"])
def test_what_was_prepared_on_two_wallets_serves_many_by_index(
    own_database_url: str, snowflake: Snowflake, analyzed: str
) -> None:
    """Nobody has analyzed the tables since, so PostgreSQL takes them for as small as they were."""
    with bounded_engine(own_database_url, pool_size=1) as own:
        orders = Orders(own, snowflake)
        with own.begin() as connection:
            for table in ("wallets", "transfers", "entries"):
                connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            connection.exec_driver_sql("ANALYZE")
        for user in (1, 2):
            orders.execute(deposit(user, 100))
        if analyzed != "empty":
            with own.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
        use_all(orders, own)
        with own.begin() as connection:
            many = {"last": WALLETS}
            for statement in FILLING:
                connection.execute(text(statement), many)
        before = rows_read(own)
        use_all(orders, own)
        read = {table: counts - before[table] for table, counts in rows_read(own).items()}
    assert {table: counts["in_full"] for table, counts in read.items()} == dict.fromkeys(TABLES, 0)
    # Nor were all of an index's read, which is what is left to a planner that may not read tables.
    assert all(counts["by_index"] < FEW for counts in read.values()), read


def use_all(orders: Orders, engine: Engine) -> None:
    """Go through everything that an order and its job may meet."""
    orders.execute(transfer(1, 2, 1))
    orders.execute(deposit(1, 1))
    for wait_for_locks in (True, False):
        post_now(engine, [orders.accept(later(1, 2, 1)).transfer_id], wait_for_locks=wait_for_locks)
    key = str(time.monotonic())
    orders.execute(transfer(2, 1, 1, key=key))
    assert orders.execute(transfer(2, 1, 1, key=key)).replayed
    assert orders.accept(later(1, 2, 1, key=key)).transfer_id
    assert orders.accept(later(1, 2, 1, key=key)).replayed


def rows_read(engine: Engine) -> dict[str, Counter[str]]:
    """How many rows were read by going through a whole table, and how many entries of indexes."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        query = text("""
            SELECT t.relname, t.seq_tup_read AS in_full, sum(i.idx_tup_read)::bigint AS by_index
            FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
            WHERE t.relname = ANY (:names) GROUP BY 1, 2
        """)
        found = connection.execute(query, {"names": TABLES})
        return {row.relname: Counter(in_full=row.in_full, by_index=row.by_index) for row in found}
