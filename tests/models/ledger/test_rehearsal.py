"""A rehearsal writes what a posting writes, with the privileges of whoever posts, and nothing is left of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, select, text

from models.database.faults import sqlstate
from models.database.session import Session
from models.ledger.rehearsal import MANY, Fault, judge, rehearse
from models.schema.tables import entries, wallets
from models.schema.tables import transfers as transfers_table
from tests.books import check_books
from tests.models.database.catching import caught
from tests.models.ledger.ordering import bounded_engine

TABLES = ("wallets", "transfers", "entries")


@pytest.fixture
def service(service_database_url: str, engine: Engine) -> Iterator[Engine]:
    """An engine of the service's, on empty tables."""
    del engine  # asked for to be emptied
    with bounded_engine(service_database_url) as service:
        yield service


@contextmanager
def counted(engine: Engine) -> Iterator[None]:
    """Count rows as they are written. Sequences count on through a rollback."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION test_count() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM nextval(TG_ARGV[0]); RETURN NULL; END $$"
        )
        for table in TABLES:
            connection.exec_driver_sql(
                f"CREATE SEQUENCE count_{table}; CREATE TRIGGER test_count AFTER INSERT OR UPDATE ON {table}"
                f" FOR EACH ROW EXECUTE FUNCTION test_count('count_{table}')"
            )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION test_count CASCADE")
            for table in TABLES:
                connection.exec_driver_sql(f"DROP SEQUENCE count_{table}")


def counts(engine: Engine) -> dict[str, int]:
    last = text("SELECT pg_sequence_last_value(CAST('count_' || :table AS regclass))")
    with engine.connect() as connection:
        return {table: connection.execute(last, {"table": table}).scalar_one() for table in TABLES}


@pytest.mark.parametrize("transfers", [1, MANY])
def test_a_rehearsal_writes_what_a_posting_writes_and_leaves_nothing_behind(
    engine: Engine, service: Engine, transfers: int
) -> None:
    with counted(engine):
        for _ in range(2):  # on the same connection, which is in no transaction after the first
            with Session(service) as session:
                rehearse(session, transfers=transfers)
        rows = 2 * (1 + transfers)  # written twice over: made up, and posted
        assert counts(engine) == {"wallets": 2 * rows, "transfers": 2 * rows, "entries": 2 * (1 + 2 * transfers)}
    with engine.connect() as connection:
        for table in (wallets, transfers_table, entries):
            assert connection.execute(select(table)).all() == []
    check_books(engine)


def test_a_lock_on_a_table_is_not_waited_for(engine: Engine, service: Engine) -> None:
    def fail() -> None:
        with Session(service) as session:
            rehearse(session)

    with engine.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE entries IN SHARE MODE")
        error = caught(fail)
        assert judge(service, error, took_s=1.0) is None
        holder.rollback()
    assert sqlstate(error) == "55P03"
    assert judge(service, error, took_s=1.0) == Fault(error, is_clear=True)


def test_who_took_too_long_did_so_only_if_others_take_much_less(engine: Engine, service: Engine) -> None:
    def dawdle() -> None:
        with service.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 10")
            connection.exec_driver_sql("SELECT pg_sleep(9)")

    error = caught(dawdle)
    assert sqlstate(error) == "57014"
    fault, other = judge(service, error, took_s=1_000.0), judge(service, error, took_s=0.0)
    assert fault is not None
    assert other is not None
    assert (fault.is_clear, other.is_clear) == (True, False)
    check_books(engine)
