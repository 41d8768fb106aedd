"""An import opens all of its wallets or none of them, once, whatever is repeated, raced, lost or killed on the way."""

import json
import random
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from models.database.session import Session, Statement
from models.errors import OutcomeUnknown, Unavailable
from models.ledger import imports
from models.ledger.import_file import Opening
from models.ledger.imports import Imported, ImportReused, Imports, WalletsExist, content_id
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests import nursery
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, count_transfers, count_waiting, deposit, transfer
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy

MAX = 2**63 - 1
SLICE = 3
# More than a few slices, in no order, one of them empty.
OPENINGS = [Opening(user_id, user_id * 10 if user_id != 5 else 0) for user_id in (9, 3, 7, 1, 5, 8, 2, 6, 4, 10)]
HELD = dict(OPENINGS)
DONE = Imported(wallets=10, amount_cents=500, replayed=False)
DONE_BEFORE = Imported(wallets=10, amount_cents=500, replayed=True)


@pytest.fixture(autouse=True)
def sound_books(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slices that are soon over; after the test, whatever it did, the books balance."""
    monkeypatch.setattr(imports, "SLICE", SLICE)
    yield
    check_books(engine)


@pytest.fixture
def importer(engine: Engine, snowflake: Snowflake) -> Imports:
    return Imports(engine, snowflake)


def test_every_balance_is_a_deposit_of_its_own(importer: Imports, engine: Engine) -> None:
    written: list[int] = []
    assert importer.run(OPENINGS, key="k", progress=written.append) == DONE
    assert balances(engine) == HELD
    assert written == [3, 3, 3]
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT kind, status, destination, amount, idempotency_key FROM transfers"))
        assert sorted(map(tuple, rows)) == sorted(
            ("deposit", "posted", user_id, cents, "k") for user_id, cents in OPENINGS if cents
        )


def test_the_widest_balances_fit(importer: Imports, engine: Engine) -> None:
    openings = [Opening(MAX, MAX), Opening(1, MAX)]
    assert importer.run(openings, key="k").amount_cents == 2 * MAX
    assert balances(engine) == dict(openings)


def test_run_again_in_any_order_it_says_that_it_was_done(importer: Imports, engine: Engine, orders: Orders) -> None:
    importer.run(OPENINGS, key="k")
    orders.execute(transfer(10, 1, 100))
    assert importer.run(sorted(OPENINGS), key="k") == DONE_BEFORE
    assert importer.check(OPENINGS, key="k") == DONE_BEFORE
    assert balances(engine) == HELD | {10: 0, 1: 110}


def test_a_name_made_of_the_rows_knows_no_order() -> None:
    shuffled = random.Random(1).sample(OPENINGS, len(OPENINGS))
    assert content_id(shuffled) == content_id(OPENINGS)
    assert content_id([Opening(1, 12), Opening(3, 4)]) != content_id([Opening(1, 1), Opening(23, 4)])
    assert content_id(OPENINGS[1:]) != content_id(OPENINGS)


def test_one_wallet_that_exists_refuses_all(importer: Imports, engine: Engine, orders: Orders) -> None:
    for user_id in (6, 5):
        orders.execute(deposit(user_id, 1))
    for attempt in (importer.run, importer.check):
        with pytest.raises(WalletsExist) as refused:
            attempt(OPENINGS, key="k")
        assert (refused.value.count, refused.value.users) == (2, "5 6")
    assert balances(engine) == {5: 1, 6: 1}
    assert count_transfers(engine) == 2


@pytest.mark.parametrize(
    "changed",
    [[*OPENINGS[:-1], Opening(10, 1)], [*OPENINGS, Opening(11, 1)], [*OPENINGS, Opening(11, 0)]],
    ids=["another balance", "one more", "an empty one more"],
)
def test_an_id_that_was_used_for_other_rows_is_refused(
    importer: Imports, engine: Engine, changed: list[Opening]
) -> None:
    importer.run(OPENINGS, key="k")
    for attempt in (importer.run, importer.check):
        with pytest.raises(ImportReused):
            attempt(changed, key="k")
    assert balances(engine) == HELD


def test_a_check_writes_nothing(importer: Imports, engine: Engine) -> None:
    assert importer.check(OPENINGS, key="k") == DONE
    assert balances(engine) == {}


def test_of_two_at_once_one_opens_and_the_other_says_that_it_was_done(engine: Engine, snowflake: Snowflake) -> None:
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(Imports(engine, snowflake).run, OPENINGS, key="k") for _ in range(4)]
        replayed = sorted(task.result().replayed for task in tasks)
    assert replayed == [False, True, True, True]
    assert balances(engine) == HELD


def test_files_that_overlap_wait_for_each_other_and_never_in_a_circle(engine: Engine, snowflake: Snowflake) -> None:
    def open_some(shift: int) -> bool:
        openings = [Opening(1 + (user_id + shift) % 12, 5) for user_id in range(9)]
        try:
            return not Imports(engine, snowflake).run(openings, key=f"k{shift}").replayed
        except WalletsExist:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(open_some, range(6))) == 1
    assert len(balances(engine)) == 9


def test_a_deposit_that_opens_one_of_the_wallets_meanwhile_wins_or_waits(
    engine: Engine, importer: Imports, orders: Orders
) -> None:
    with engine.connect() as rival, ThreadPoolExecutor(1) as pool:
        rival.execute(text("INSERT INTO wallets (id) VALUES (7)"))
        task = pool.submit(importer.run, OPENINGS, key="k")
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        rival.rollback()
        assert task.result() == DONE
    orders.execute(deposit(7, 1))
    assert balances(engine) == HELD | {7: 71}


def test_a_wallet_that_stays_locked_is_not_waited_for_without_end(
    database_url: str, engine: Engine, snowflake: Snowflake
) -> None:
    with bounded_engine(database_url, lock_ms=50) as impatient, engine.connect() as rival:
        rival.execute(text("INSERT INTO wallets (id) VALUES (7)"))
        with pytest.raises(Unavailable):
            Imports(impatient, snowflake).run(OPENINGS, key="k")
        rival.rollback()
    assert balances(engine) == {}


def test_killed_in_the_middle_it_leaves_nothing_and_the_next_run_completes(
    database_url: str, importer: Imports, engine: Engine
) -> None:
    task = {
        "url": database_url.replace("postgresql://", "postgresql+psycopg2://"),
        "openings": OPENINGS,
        "slice": SLICE,
    }
    child = nursery.run(
        [sys.executable, "-m", "tests.models.ledger.import_child", json.dumps(task)],
        cwd=ROOT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (child.returncode, child.stderr) == (-signal.SIGKILL, "")
    assert json.loads(child.stdout) == {"wallets": 10, "entries": 2 * SLICE}
    assert wait_for(lambda: count_sessions(engine, "import-child") == 0, PATIENCE_S)
    assert balances(engine) == {}
    assert count_transfers(engine) == 0
    assert importer.run(OPENINGS, key="k") == DONE
    assert balances(engine) == HELD


@pytest.mark.parametrize("request_lost", [b"COMMIT", b"decode("], ids=["commit", "in the middle"])
def test_a_lost_reply_is_found_out_and_not_done_twice(
    postgres_proxy: TcpProxy, engine: Engine, snowflake: Snowflake, request_lost: bytes
) -> None:
    with bounded_engine(postgres_proxy.url) as cut:
        postgres_proxy.lose_reply_to(lambda request: request_lost in request)
        assert Imports(cut, snowflake).run(OPENINGS, key="k") == DONE
    assert postgres_proxy.cuts == 1
    assert balances(engine) == HELD
    assert count_transfers(engine) == 9


def test_a_reply_that_cannot_be_found_out_is_told_as_such(
    postgres_proxy: TcpProxy, engine: Engine, snowflake: Snowflake, importer: Imports
) -> None:
    def is_commit(request: bytes) -> bool:
        if b"COMMIT" in request:
            postgres_proxy.refuse_new()
            return True
        return False

    with bounded_engine(postgres_proxy.url) as cut:
        postgres_proxy.lose_reply_to(is_commit)
        with pytest.raises(OutcomeUnknown):
            Imports(cut, snowflake).run(OPENINGS, key="k")
    assert importer.run(OPENINGS, key="k") == DONE_BEFORE
    assert balances(engine) == HELD


def test_with_the_database_gone_nothing_moved(postgres_proxy: TcpProxy, engine: Engine, snowflake: Snowflake) -> None:
    with bounded_engine(postgres_proxy.url) as cut:
        postgres_proxy.refuse()
        for attempt in (Imports(cut, snowflake).run, Imports(cut, snowflake).check):
            with pytest.raises(Unavailable):
                attempt(OPENINGS, key="k")
    assert balances(engine) == {}


def test_a_server_that_refuses_a_row_leaves_nothing_of_the_others(
    importer: Imports, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    run = Session.run

    def note(session: Session, statement: Statement, *parameters: object, then: str = "") -> None:
        statements.append(statement.sql)
        run(session, statement, *parameters, then=then)

    monkeypatch.setattr(Session, "run", note)
    try:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE entries ADD CONSTRAINT not_80 CHECK (amount <> 80)"))
        with pytest.raises(Unavailable):
            importer.run(OPENINGS, key="k")
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE entries DROP CONSTRAINT not_80"))
    assert sum("INSERT INTO entries" in each for each in statements) == 3
    assert balances(engine) == {}


def count_sessions(engine: Engine, application: str) -> int:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
    )
    with engine.connect() as connection:
        count: int = connection.execute(query, {"name": application}).scalar_one()
        return count
