"""The service's role can do all of the service's work, and nothing else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psycopg2.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from models.errors import BalanceInsufficient
from models.ledger import attempts, events
from models.ledger.attempts import Seen
from models.ledger.history import History
from models.ledger.listing import Filters, Listing
from models.ledger.orders import Orders
from models.ledger.transfer import Details, Kind, Status
from models.schema import grants, revision
from models.schema.tables import metadata
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.roles import SERVICE
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, deposit, later, post_now, transfer, withdrawal

# Each would let whoever has got into the service rewrite what has happened, or get further.
FORBIDDEN = [
    "UPDATE entries SET amount = 1",
    "UPDATE entries SET balance_after = 1",
    "DELETE FROM entries",
    "DELETE FROM wallets",
    "UPDATE wallets SET id = 3",
    "UPDATE wallets SET created_at = now()",
    "DELETE FROM freezes",
    "UPDATE freezes SET reason = 'another'",
    "INSERT INTO freezes (wallet_id, debits, credits, reason, by, at) VALUES (1, true, true, 'a', 'b', now())",
    "DELETE FROM transfers",
    "UPDATE transfers SET amount = 1",
    "UPDATE transfers SET source = 3",
    "UPDATE transfers SET destination = 3",
    "UPDATE transfers SET kind = 'deposit'",
    "UPDATE transfers SET idempotency_key = NULL",
    "INSERT INTO transfer_references VALUES (1, now(), 1, 2, 'r')",
    "UPDATE transfer_references SET reference = 'another'",
    "DELETE FROM transfer_references",
    "SELECT note_reference()",
    "INSERT INTO archives VALUES (1, now(), now(), 1, 1, 0, 0, sha256(''))",
    "INSERT INTO openings VALUES (1, 1, 1, now(), 1)",
    "INSERT INTO receipts VALUES (1, 1)",
    "UPDATE archives SET moved = 0",
    "UPDATE openings SET balance = 0",
    "UPDATE receipts SET balance = 0",
    "DELETE FROM archives",
    "DELETE FROM openings",
    "DELETE FROM receipts",
    "UPDATE event_batches SET transfers = '{1}'",
    "UPDATE event_batches SET snapshots = NULL",
    "UPDATE event_batches SET created_at = now()",
    "INSERT INTO event_batches (transfers, created_at, position) VALUES ('{1}', now(), 1)",
    "DELETE FROM event_head",
    "INSERT INTO event_head DEFAULT VALUES",
    "DELETE FROM snowflake_nodes",
    "INSERT INTO snowflake_nodes (node) VALUES (0)",
    "UPDATE snowflake_nodes SET node = 0",
    "UPDATE alembic_version SET version_num = '0000'",
    "DELETE FROM alembic_version",
    "INSERT INTO alembic_version VALUES ('0000')",
    *(f"TRUNCATE {table}" for table in ("wallets", "transfers", "entries", "snowflake_nodes", "alembic_version")),
    *(f"DROP TABLE {table}" for table in ("wallets", "transfers", "entries", "snowflake_nodes", "alembic_version")),
    "ALTER TABLE wallets DROP CONSTRAINT wallets_balance_not_negative",
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "DROP INDEX transfers_by_key",
    "LOCK TABLE wallets IN ACCESS EXCLUSIVE MODE NOWAIT",
    "CREATE TABLE anything (id int)",
    "CREATE VIEW anything AS SELECT 1",
    "CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
    "CREATE TRIGGER anything BEFORE INSERT ON entries EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE SCHEMA anything",
    "CREATE ROLE anything",
    "ALTER ROLE wallet PASSWORD 'mine'",
    "ALTER ROLE wallet_service SUPERUSER",
    "SET ROLE wallet",
    "SET SESSION AUTHORIZATION postgres",
    "SET session_replication_role = replica",
    "GRANT wallet TO wallet_service",
    "COPY (SELECT 1) TO '/tmp/anything'",
    "COPY wallets TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT lo_import('/etc/passwd')",
]


@pytest.fixture
def service(service_database_url: str, engine: Engine) -> Iterator[Engine]:
    """An engine of the service's, on empty tables."""
    del engine  # asked for to be emptied
    with bounded_engine(service_database_url, pool_size=4) as service:
        yield service


@pytest.fixture
def orders(service: Engine) -> Iterator[Orders]:
    """Takes orders as the service, with ids of the service's own."""
    snowflake = Snowflake(NodeLease(service))
    yield Orders(service, snowflake)
    snowflake.release()
    assert snowflake.lease.node is None


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_service_may_not(service: Engine, statement: str) -> None:
    with service.connect() as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(statement))
    assert isinstance(refused.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_the_service_moves_money_and_reads_it(service: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 100, key="k"))
    assert orders.execute(deposit(2, 100, key="k")).replayed
    orders.execute(withdrawal(1, 10))
    moved = orders.execute(replace(transfer(1, 2, 20), details=Details(reference="rent")))
    with pytest.raises(BalanceInsufficient):
        orders.execute(withdrawal(1, 1_000))
    assert balances(service) == {1: 70, 2: 120}
    assert History(service).get_balance(1).cents == 70
    assert History(service).get_transfer(moved.transfer_id, seen_by=2).status is Status.POSTED
    found = Listing(service).get_page(Filters(user_id=2, reference="rent"), size=2).transfers
    assert [each.id for each in found] == [moved.transfer_id]
    check_books(service)


def test_the_service_accepts_fails_requeues_and_posts_a_job(service: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 1))
    job = orders.accept(later(1, 2, 40)).transfer_id
    assert attempts.find_pending(service, limit=10).ids == [job]
    with service.begin() as connection:
        assert attempts.count_lost(connection, {job: 1}) == {job: 1}
        assert attempts.fail_lost(connection, [job], most=2) == {}
    with service.begin() as connection:
        attempts.spend(connection, {job: Seen(attempts=0, generation=1)}, {job: None}, error="e")
    with service.begin() as connection:
        assert [due.id for due in attempts.reopen(connection, {job: 1})] == [job]
    post_now(service, [job], wait_for_locks=False)
    assert balances(service) == {1: 60, 2: 41}
    check_books(service)


def test_the_service_numbers_reads_and_forgets_events(engine: Engine, service: Engine, orders: Orders) -> None:
    orders.execute(deposit(1, 100))
    assert events.number(service) == 1
    assert [each.type for each in events.find_events(service, after=0, limit=2)] == ["transfer.posted"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE event_batches SET created_at = now() - interval '25 hours'"))
    assert events.forget(service, older_than_days=1, limit=2) == 1


def test_the_service_sees_whether_the_database_is_migrated(service: Engine) -> None:
    assert revision.readiness(service) == "ok"


def test_every_table_of_ours_says_what_the_service_may_do_with_it() -> None:
    assert metadata.tables.keys() <= grants.PRIVILEGES.keys()


def test_privileges_that_were_added_by_hand_are_taken_back(engine: Engine, service: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"GRANT DELETE, TRUNCATE, UPDATE (amount) ON entries TO {SERVICE}"))
        connection.execute(text("GRANT ALL ON wallets TO PUBLIC"))
    grants.give(engine, SERVICE)
    query = text("""
        SELECT has_table_privilege('entries', 'DELETE') OR has_table_privilege('entries', 'TRUNCATE')
            OR has_any_column_privilege('entries', 'UPDATE') OR has_table_privilege('wallets', 'DELETE')
    """)
    with service.connect() as connection:
        assert connection.execute(query).scalar() is False


def test_whoever_works_while_privileges_are_given_anew_misses_none(
    engine: Engine, service: Engine, orders: Orders
) -> None:
    with ThreadPoolExecutor(4) as pool:
        given = [pool.submit(grants.give, engine, SERVICE) for _ in range(10)]
        for _ in range(50):
            orders.execute(deposit(1, 1))
        for each in given:
            each.result()
    assert balances(service) == {1: 50}


@contextmanager
def _counting_trigger(engine: Engine) -> Iterator[None]:
    """What an owner may do: count what is written, in a table and a sequence of his own."""
    with engine.begin() as connection:
        connection.execute(
            text("""
            CREATE TABLE seen (kind text);
            CREATE SEQUENCE tries;
            CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO seen VALUES (NEW.kind); PERFORM nextval('tries'); RETURN NEW; END $$;
            CREATE TRIGGER counts AFTER INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION count_it();
            """)
        )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(
                text("DROP TRIGGER counts ON transfers; DROP FUNCTION count_it; DROP TABLE seen; DROP SEQUENCE tries")
            )


def test_a_trigger_of_the_owners_works_for_the_service(engine: Engine, orders: Orders) -> None:
    with _counting_trigger(engine):
        orders.execute(deposit(1, 1))
        with engine.connect() as connection:
            assert connection.execute(text("SELECT kind FROM seen")).scalars().all() == [Kind.DEPOSIT]


def test_the_owner_may_end_the_services_sessions(engine: Engine, service: Engine) -> None:
    with service.connect() as victim:
        pid = victim.execute(text("SELECT pg_backend_pid()")).scalar()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}).scalar() is True
        victim.invalidate()
