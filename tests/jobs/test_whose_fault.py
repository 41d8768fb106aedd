"""Whose fault a fault is, is found out by trying: what the database does for nobody costs no attempt, however long."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

import jobs.settler
from jobs.retries import RetryPolicy
from jobs.settler import MOST_CRASHES, PASSING_TRIES, Settler
from models.database.session import Session
from models.ledger import attempts
from models.ledger.posting import Outcome, Posting, post
from models.ledger.transfer import Status
from models.schema import grants, migrations
from ops.local.processes import wait_for
from ops.local.roles import SERVICE
from ops.local.servers import PostgresServer
from tests.books import check_books
from tests.jobs.backlog import (
    DAWDLES,
    accept,
    assert_posted_once,
    fault_on,
    fault_on_all,
    fund,
    locked,
    make_due,
    row_of,
    rows_of,
)
from tests.jobs.conftest import DELAYS_S
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

POSTED = Outcome(Status.POSTED)
TERMINATES = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1);"
RAISES = {code: f"RAISE SQLSTATE '{code}';" for code in ("40001", "40P01", "53100", "53200", "57P03", "08006")}
PASSING = {**RAISES, "terminates": TERMINATES}


@pytest.fixture
def service_settler(service_database_url: str, books: Engine, policy: RetryPolicy) -> Iterator[Settler]:
    """A settler with no more privileges than the service has."""
    del books
    with bounded_engine(service_database_url, lock_ms=100, statement_ms=8_000) as engine:
        yield Settler(engine, policy)


def untouched(engine: Engine, ids: Sequence[int]) -> bool:
    """Whether all of them stand as they were accepted."""
    return all(
        (row.status, row.attempts, row.last_error) == ("pending", 0, None) for row in rows_of(engine, ids).values()
    )


# One poison


@pytest.mark.parametrize("kind", sorted(PASSING))
def test_one_transfer_with_a_fault_that_reads_like_the_databases_stops_nobody_and_ends_as_a_dead_letter(
    books: Engine, service_settler: Settler, kind: str
) -> None:
    ids = accept(books, 20)
    poison, neighbours = ids[13], [each for each in ids if each != ids[13]]
    with fault_on(books, [poison], PASSING[kind]):
        settled = service_settler.settle(ids)
        assert settled.outcomes == dict.fromkeys(neighbours, POSTED)
        assert (set(settled.spent), settled.undone, settled.fault) == ({poison}, [], None)
        for _ in DELAYS_S:
            make_due(books)
            settled = service_settler.settle([poison])
    assert settled.spent[poison].next_attempt_at is None
    row = row_of(books, poison)
    assert (row.status, row.reason, row.attempts) == ("failed", "attempts_exhausted", len(DELAYS_S) + 1)
    assert_posted_once(books, neighbours)


@pytest.mark.parametrize("kind", ["40P01", "terminates"])
def test_a_fault_that_passes_costs_no_attempt(books: Engine, service_settler: Settler, kind: str) -> None:
    """One less than is believed of a transfer alone, after those that its batch and its part met with."""
    ids = accept(books, 5)
    with books.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE faults")
    try:
        with fault_on(books, [ids[2]], f"IF nextval('faults') < {2 + PASSING_TRIES} THEN {PASSING[kind]} END IF;"):
            settled = service_settler.settle(ids)
            with books.connect() as connection:
                assert connection.execute(text("SELECT last_value FROM faults")).scalar_one() == 2 + PASSING_TRIES
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql("DROP SEQUENCE faults")
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert (settled.spent, settled.fault) == ({}, None)
    assert_posted_once(books, ids)


@pytest.fixture
def crash_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server of a test's own, that may go down, with a function by which it does: only its superuser can have one."""
    with PostgresServer(tmp_path, settings={"scram_iterations": "1"}) as server:
        with _connected(server.url) as owner:
            migrations.upgrade(owner)
            grants.give(owner, SERVICE)
        with _connected(server.admin_url.rpartition("/")[0] + "/wallet") as admin, admin.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION crash() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$"
                "BEGIN COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'; END $$"
            )
        yield server


@contextmanager
def _connected(url: str) -> Iterator[Engine]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool)
    yield engine
    engine.dispose()


def is_lost(connection: Connection) -> bool:
    try:
        connection.execute(text("SELECT 1"))
    except DBAPIError:
        return True
    return False


def answers(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except DBAPIError:
        return False
    return True


@pytest.mark.long
def test_one_transfer_that_takes_the_server_down_each_time_stops_nobody_for_ever(
    crash_server: PostgresServer, policy: RetryPolicy
) -> None:
    crashes = faults = 0
    with (
        _connected(crash_server.url) as owner,
        bounded_engine(crash_server.url) as books,
        bounded_engine(crash_server.service_url) as engine,
    ):
        fund(books, 1, 2)
        ids = accept(books, 9)
        poison, neighbours = ids[4], [each for each in ids if each != ids[4]]
        waiting, settler = list(ids), Settler(engine, policy)
        with fault_on(owner, [poison], "PERFORM crash();"):
            while waiting:
                assert faults <= 2 * (2 * MOST_CRASHES + len(DELAYS_S)), waiting
                with owner.connect() as witness:
                    known = settler._crashes.get(poison, 0)
                    settled = settler.settle(waiting)
                    if settled.fault is not None:
                        # One that the server has not noticed itself when the rehearsal comes is none to the settler.
                        crashes += settler._crashes.get(poison, 0) > known
                        faults += 1
                        # The server lets others in until it has noticed, and then ends them all.
                        assert wait_for(lambda: is_lost(witness), PATIENCE_S)
                assert wait_for(lambda: answers(owner), PATIENCE_S)
                dead = {each for each, spent in settled.spent.items() if spent.next_attempt_at is None}
                waiting = [each for each in waiting if each not in settled.outcomes and each not in dead]
        assert crashes == 2 * MOST_CRASHES + len(DELAYS_S)
        row = row_of(owner, poison)
        assert (row.status, row.attempts) == ("failed", len(DELAYS_S) + 1)
        assert row.last_error == "the database broke down each time it was tried"
        assert {each.attempts for each in rows_of(owner, neighbours).values()} == {1}
        assert_posted_once(owner, neighbours)


UNWRITABLE = """
CREATE FUNCTION test_unwritable() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE 'XX001'; END $$;
CREATE TRIGGER test_unwritable BEFORE UPDATE ON transfers FOR EACH ROW WHEN (NEW.id IN ({ids}))
    EXECUTE FUNCTION test_unwritable()
"""
# What a page of a table that is damaged comes to, for whoever is not its owner.
UNREADABLE = """
CREATE FUNCTION test_unreadable(id bigint) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN IF id IN ({ids}) THEN RAISE SQLSTATE 'XX001'; END IF; RETURN true; END $$;
CREATE POLICY test_unreadable ON transfers USING (test_unreadable(id));
ALTER TABLE transfers ENABLE ROW LEVEL SECURITY
"""
MENDED = """
ALTER TABLE transfers DISABLE ROW LEVEL SECURITY;
DROP FUNCTION IF EXISTS test_unwritable CASCADE; DROP FUNCTION IF EXISTS test_unreadable CASCADE
"""


@pytest.mark.parametrize("damage", [UNWRITABLE, UNREADABLE], ids=["unwritable", "unreadable"])
def test_one_transfer_of_which_nothing_can_be_written_down_stops_nobody(
    books: Engine, service_settler: Settler, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    ids, later = accept(books, 12), accept(books, 4, first_id=2_000)
    damaged, postings = ids[2], []

    def counting(session: Session, some: Sequence[int], **how: Any) -> Posting:
        postings.append(list(some))
        return post(session, some, **how)

    with books.begin() as connection:
        connection.exec_driver_sql(damage.format(ids=damaged))
    try:
        settled = service_settler.settle(ids)
        assert settled.outcomes == dict.fromkeys((each for each in ids if each != damaged), POSTED)
        assert (settled.spent, settled.undone) == ({}, [damaged])
        assert settled.fault is not None  # so its worker pauses before it comes again
        monkeypatch.setattr(jobs.settler, "post", counting)
        settled = service_settler.settle([damaged, *later])
        assert postings[0] == later
        assert (settled.outcomes, settled.undone) == (dict.fromkeys(later, POSTED), [damaged])
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql(MENDED)
    assert untouched(books, [damaged])
    assert service_settler.settle([damaged]).outcomes == {damaged: POSTED}
    assert_posted_once(books, [*ids, *later])


def test_one_of_which_nothing_can_be_written_down_keeps_no_other_from_spending_an_attempt(
    books: Engine, service_settler: Settler
) -> None:
    ids = accept(books, 4, source=3)
    with books.begin() as connection:
        connection.exec_driver_sql(UNWRITABLE.format(ids=ids[1]))
    try:
        with locked(books, "SELECT FROM wallets WHERE id = 3 FOR UPDATE"):
            settled = service_settler.settle(ids)
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql(MENDED)
    assert (set(settled.spent), settled.undone) == ({ids[0], *ids[2:]}, [ids[1]])
    assert {row.attempts for row in rows_of(books, settled.spent).values()} == {1}
    assert untouched(books, [ids[1]])


def test_transfers_that_somebody_holds_themselves_are_handed_back_together(
    books: Engine, service_settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of all of them that takes its time costs a few lock timeouts, and no attempt."""
    ids = accept(books, 12)
    spendings: list[int] = []
    spend = attempts.spend

    def counting(connection: Connection, seen: dict[int, Any], *rest: Any, **named: Any) -> Any:
        spendings.append(len(seen))
        return spend(connection, seen, *rest, **named)

    monkeypatch.setattr(attempts, "spend", counting)
    with locked(books, "UPDATE transfers SET last_error = NULL WHERE status = 'pending'"):
        settled = service_settler.settle(ids)
    assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
    assert spendings == [12]
    assert untouched(books, ids)
    assert service_settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED)


def test_what_the_server_went_down_under_is_posted_alone_after_a_while_the_least_suspect_first(
    books: Engine, postgres_proxy: TcpProxy, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else it goes down under in between: there may be another worker, with another batch."""
    batch, other = accept(books, 4), accept(books, 3, first_id=2_000)
    postings: list[list[int]] = []

    def post_and_be_cut_off(session: Session, some: Sequence[int], **how: Any) -> Posting:
        postings.append(list(some))
        if is_going_down:
            postgres_proxy.refuse()
        return post(session, some, **how)

    monkeypatch.setattr(jobs.settler, "post", post_and_be_cut_off)
    with bounded_engine(postgres_proxy.url) as engine:
        settler = Settler(engine, policy)

        def go_down_under(ids: list[int]) -> None:
            assert settler.settle(ids).undone == ids
            postgres_proxy.refuse(refusing=False)

        is_going_down = True
        for _ in range(MOST_CRASHES):
            go_down_under(batch)
            go_down_under(other)
        assert postings == [batch, other] * MOST_CRASHES
        go_down_under([batch[0]])
        postings.clear()
        is_going_down = False
        assert settler.settle([*batch, 3_000]).outcomes == dict.fromkeys(batch, POSTED)
        assert postings == [[3_000], *([each] for each in batch[1:]), [batch[0]]]
        postings.clear()
        assert set(settler.settle(other).outcomes) == set(other)
        assert postings == [[each] for each in other]
        assert settler._crashes == {}  # and nothing is remembered of what is settled
    assert_posted_once(books, [*batch, *other])


# The whole database


@pytest.mark.parametrize("size", [1, 12])
@pytest.mark.parametrize(
    ("table", "mode"),
    [
        ("entries", "SHARE"),  # an index is built
        ("transfers", "SHARE"),
        ("wallets", "SHARE"),
        ("entries", "ACCESS EXCLUSIVE"),
        ("wallets", "ACCESS EXCLUSIVE"),
    ],
)
def test_a_lock_on_a_table_costs_no_attempt_however_often_it_is_met_and_ends_by_itself(
    *, books: Engine, service_settler: Settler, table: str, mode: str, size: int
) -> None:
    ids = accept(books, size)
    with locked(books, f"LOCK TABLE {table} IN {mode} MODE"):
        for _ in range(3):
            settled = service_settler.settle(ids)
            assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
            assert settled.fault is not None
    assert untouched(books, ids)
    assert service_settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED)
    assert_posted_once(books, ids)


def test_a_lock_on_a_table_that_comes_while_a_batch_is_narrowed_down_stops_that_and_costs_no_attempt(
    books: Engine, service_settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accept(books, 9)
    with books.connect() as holder, fault_on(books, [ids[8]]):

        def post_and_lock(session: Session, some: Sequence[int], **how: Any) -> Posting:
            if len(some) == 3:  # the parts
                holder.exec_driver_sql("LOCK TABLE entries IN SHARE MODE")
            return post(session, some, **how)

        monkeypatch.setattr(jobs.settler, "post", post_and_lock)
        settled = service_settler.settle(ids)
        holder.rollback()
    assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
    assert untouched(books, ids)


def test_a_wallet_that_is_locked_beside_a_table_is_nobodys_fault_either(
    books: Engine, service_settler: Settler
) -> None:
    ids = accept(books, 4, source=3)
    with (
        locked(books, "SELECT FROM wallets WHERE id = 3 FOR UPDATE"),
        locked(books, "LOCK TABLE entries IN SHARE MODE"),
    ):
        settled = service_settler.settle(ids)
    assert (settled.spent, settled.undone) == ({}, ids)
    assert untouched(books, ids)


@pytest.mark.parametrize("kind", sorted(RAISES))
def test_a_fault_that_everybody_meets_with_costs_no_attempt(books: Engine, service_settler: Settler, kind: str) -> None:
    ids = accept(books, 5)
    with fault_on_all(books, "entries", RAISES[kind]):
        for _ in range(4):
            settled = service_settler.settle(ids)
            assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
    assert untouched(books, ids)
    assert service_settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED)


def test_room_that_is_there_for_a_few_rows_and_not_for_many_is_no_room(books: Engine, service_settler: Settler) -> None:
    """On a full disk some pages have room left: not those that this transfer needs."""
    (number,) = accept(books, 1)
    full = "IF (SELECT count(*) FROM wallets) > 50 THEN RAISE SQLSTATE '53100'; END IF;"
    with fault_on_all(books, "entries", full), fault_on(books, [number], RAISES["53100"]):
        settled = service_settler.settle([number])
    assert (settled.spent, settled.undone) == ({}, [number])
    assert untouched(books, [number])


def test_privileges_that_are_missing_for_a_while_cost_no_attempt(books: Engine, service_settler: Settler) -> None:
    ids = accept(books, 3)
    with books.begin() as connection:
        connection.exec_driver_sql("REVOKE INSERT ON entries FROM wallet_service")
    try:
        settled = service_settler.settle(ids)
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql("GRANT INSERT ON entries TO wallet_service")
    assert (settled.spent, settled.undone) == ({}, ids)
    assert untouched(books, ids)
    assert service_settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED)


def test_a_database_that_is_too_slow_for_anything_costs_no_attempt(
    books: Engine, service_database_url: str, policy: RetryPolicy
) -> None:
    ids = accept(books, 4)
    with bounded_engine(service_database_url, statement_ms=300) as engine:
        settler = Settler(engine, policy)
        with fault_on_all(books, "entries", "PERFORM pg_sleep(0.2);"):
            for _ in range(2):
                settled = settler.settle(ids)
                assert (settled.outcomes, settled.spent, settled.undone) == ({}, {}, ids)
        assert untouched(books, ids)
        assert wait_for(lambda: settler.settle(ids).outcomes == dict.fromkeys(ids, POSTED), PATIENCE_S)
    assert_posted_once(books, ids)


def test_a_database_that_is_too_slow_for_a_batch_posts_its_parts(
    books: Engine, service_database_url: str, policy: RetryPolicy
) -> None:
    """40 rows of 100 ms, in two seconds each."""
    ids = accept(books, 20)
    with (
        bounded_engine(service_database_url, statement_ms=2_000) as engine,
        fault_on_all(books, "entries", "PERFORM pg_sleep(0.1);"),
    ):
        settled = Settler(engine, policy).settle(ids)
    assert settled.outcomes == dict.fromkeys(ids, POSTED)
    assert settled.spent == {}
    assert_posted_once(books, ids)


def test_of_a_slow_database_no_transfer_is_said_to_have_taken_too_long(
    books: Engine, service_database_url: str, policy: RetryPolicy
) -> None:
    """It does for others what it refused, but in no time to speak of."""
    (dawdler,) = accept(books, 1)
    with bounded_engine(service_database_url, statement_ms=2_000) as engine:
        settler = Settler(engine, policy)
        with fault_on(books, [dawdler], DAWDLES):
            with fault_on_all(books, "entries", "PERFORM pg_sleep(0.3);"):
                settled = settler.settle([dawdler])
            assert (settled.spent, settled.undone) == ({}, [dawdler])
            assert settled.fault is not None
            assert untouched(books, [dawdler])
            assert set(settler.settle([dawdler]).spent) == {dawdler}
    assert row_of(books, dawdler).last_error == "the database took too long"


# What a rehearsal can and cannot tell


def test_a_rehearsal_leaves_nothing_behind(books: Engine, service_settler: Settler) -> None:
    (poison,) = accept(books, 1)
    tables = "SELECT (SELECT count(*) FROM wallets), (SELECT count(*) FROM transfers), (SELECT count(*) FROM entries)"
    with books.connect() as connection:
        before = connection.execute(text(tables)).one()
    for body in (RAISES["53100"], RAISES["40001"]):
        with fault_on(books, [poison], body):
            service_settler.settle([poison])
    with books.connect() as connection:
        assert connection.execute(text(tables)).one() == before
    check_books(books)


def test_a_rule_of_the_owners_that_forbids_made_up_wallets_does_not_shield_a_poison(
    books: Engine, service_settler: Settler
) -> None:
    ids = accept(books, 4)
    rule = "IF NEW.id > 9 THEN RAISE EXCEPTION 'no such user'; END IF;"
    with fault_on_all(books, "wallets", rule), fault_on(books, [ids[1]], RAISES["40001"]):
        settled = service_settler.settle(ids)
    assert set(settled.spent) == {ids[1]}
    assert_posted_once(books, [each for each in ids if each != ids[1]])


def test_what_is_checked_at_the_commit_is_rehearsed_too(books: Engine, service_settler: Settler) -> None:
    ids = accept(books, 3)
    with books.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION test_late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE '53100'; END $$;"
            "CREATE CONSTRAINT TRIGGER test_late AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION test_late()"
        )
    try:
        settled = service_settler.settle(ids)
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION test_late CASCADE")
    assert (settled.spent, settled.undone) == ({}, ids)
    assert untouched(books, ids)


def test_a_lock_that_one_transfer_alone_needs_is_not_called_a_wallets(books: Engine, service_settler: Settler) -> None:
    ids = accept(books, 4)
    with books.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE besides (id int); GRANT ALL ON besides TO wallet_service")
    try:
        with (
            fault_on(books, [ids[2]], "LOCK TABLE besides IN SHARE ROW EXCLUSIVE MODE;"),
            locked(books, "LOCK TABLE besides IN SHARE ROW EXCLUSIVE MODE"),
        ):
            settled = service_settler.settle(ids)
    finally:
        with books.begin() as connection:
            connection.exec_driver_sql("DROP TABLE besides")
    assert set(settled.spent) == {ids[2]}
    assert row_of(books, ids[2]).last_error == "something that it needs stayed locked for too long"
    assert_posted_once(books, [each for each in ids if each != ids[2]])
