"""A history shows every entry once, newest first, at the same price at any depth, and beside its own balance."""

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from models.database.session import Session, Statement, read_rows
from models.errors import TransferNotFound, Unavailable, WalletNotFound
from models.ledger import imports
from models.ledger.history import History, HistoryEntry, HistoryPage
from models.ledger.orders import Orders
from models.ledger.posting import array, texts
from models.ledger.settlement import EntryType
from models.ledger.transfer import Kind, Status
from ops.local.processes import wait_for
from tests.models.ledger.listed import share
from tests.models.ledger.ordering import bounded_engine, deposit, later, transfer, withdrawal
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy


def seqs(page: HistoryPage) -> list[int]:
    return [entry.seq for entry in page.entries]


def deposit_often(orders: Orders, user_id: int, times: int) -> None:
    for number in range(1, times + 1):
        orders.execute(deposit(user_id, number))


# Balances


def test_a_balance_is_what_was_posted_and_nothing_else(orders: Orders, history: History) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 5))
    orders.execute(transfer(1, 2, 30))
    orders.accept(later(1, 2, 70))  # only pending
    assert (history.get_balance(1).cents, history.get_balance(2).cents) == (70, 35)  # 100 - 30, 5 + 30


def test_who_has_no_wallet_has_no_balance(history: History) -> None:
    with pytest.raises(WalletNotFound) as refused:
        history.get_balance(9)
    assert refused.value.wallet_id == 9


def test_reads_of_a_database_that_is_away_are_unavailable(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url) as engine:
        postgres_proxy.refuse()
        history = History(engine)
        reads: list[Callable[[], object]] = [
            lambda: history.get_balance(1),
            lambda: history.get_page(1, None, size=5),
            lambda: history.get_transfer(1, seen_by=1),
        ]
        for read in reads:
            with pytest.raises(Unavailable):
                read()


# Pages


def test_an_entry_tells_what_happened(orders: Orders, history: History) -> None:
    numbers = [
        orders.execute(order).transfer_id
        for order in (deposit(1, 100), deposit(2, 5), withdrawal(1, 30), transfer(1, 2, 20), transfer(2, 1, 1))
    ]
    page = history.get_page(1, None, size=10)

    assert [
        (entry.transfer_id, entry.type, entry.counterparty, entry.amount_cents, entry.balance_after_cents)
        for entry in page.entries
    ] == [
        (numbers[4], EntryType.TRANSFER, 2, 1, 51),  # 50 + 1
        (numbers[3], EntryType.TRANSFER, 2, -20, 50),  # 70 - 20
        (numbers[2], EntryType.WITHDRAWAL, None, -30, 70),  # 100 - 30
        (numbers[0], EntryType.DEPOSIT, None, 100, 100),
    ]
    assert seqs(page) == [4, 3, 2, 1]
    assert {entry.wallet_id for entry in page.entries} == {1}
    assert all(entry.created_at.tzinfo is not None for entry in page.entries)
    assert page.statement_balance_cents == 51


@pytest.mark.parametrize(
    ("page", "expected", "next_seq"),
    [
        (1, [7, 6, 5], 5),
        (2, [4, 3, 2], 2),
        (3, [1], None),
        (4, [], None),
        (10**12, [], None),
    ],
)
def test_pages_are_counted_from_the_newest_entry(
    orders: Orders, history: History, page: int, expected: list[int], next_seq: int | None
) -> None:
    deposit_often(orders, 1, 7)
    found = history.get_page(1, None, size=3, page=page)
    assert (seqs(found), found.next_seq) == (expected, next_seq)
    assert found.statement_balance_cents == 28  # 1 + 2 + ... + 7


@pytest.mark.parametrize(
    ("page", "expected", "next_seq"),
    [
        (1, [12, 10, 8], 8),  # deposits have the even seqs, beginning with the opening's 1
        (2, [6, 4, 2], 2),
        (3, [1], None),
        (4, [], None),
        (10**12, [], None),
    ],
)
def test_a_filter_leaves_only_its_type_and_counts_its_own_pages(
    orders: Orders, history: History, page: int, expected: list[int], next_seq: int | None
) -> None:
    orders.execute(deposit(1, 100))
    for _ in range(6):
        orders.execute(deposit(1, 1))
        orders.execute(withdrawal(1, 1))
    found = history.get_page(1, EntryType.DEPOSIT, size=3, page=page)
    assert (seqs(found), found.next_seq) == (expected, next_seq)
    assert {entry.type for entry in found.entries} <= {EntryType.DEPOSIT}
    assert found.statement_balance_cents == 100


def test_each_filter_shows_what_the_others_do_not(orders: Orders, history: History) -> None:
    orders.execute(deposit(2, 1))
    for order in (deposit(1, 100), withdrawal(1, 1), transfer(1, 2, 1), transfer(2, 1, 1), deposit(1, 1)):
        orders.execute(order)
    found = {kind: seqs(history.get_page(1, kind, size=10)) for kind in EntryType}
    assert found == {EntryType.DEPOSIT: [5, 1], EntryType.WITHDRAWAL: [2], EntryType.TRANSFER: [4, 3]}


@pytest.mark.parametrize("entry_type", [None, EntryType.DEPOSIT])
@pytest.mark.parametrize(("count", "has_more"), [(0, False), (1, False), (4, False), (5, True), (6, True)])
def test_there_is_a_next_page_exactly_when_there_are_more_entries(
    orders: Orders, history: History, entry_type: EntryType | None, count: int, has_more: bool
) -> None:
    orders.execute(deposit(1, 1))
    orders.execute(withdrawal(1, 1))
    deposit_often(orders, 1, count)
    size = 4
    # Without a filter the first two are on top of that.
    hidden = 2 if entry_type is None else 1
    page = history.get_page(1, entry_type, size=size + hidden)
    assert (page.next_seq is not None) is has_more


def test_exact_multiples_of_the_page_size_end_without_an_empty_page(orders: Orders, history: History) -> None:
    deposit_often(orders, 1, 6)
    first = history.get_page(1, None, size=3)
    last = history.get_page(1, None, size=3, before_seq=first.next_seq)
    assert (seqs(first), seqs(last), last.next_seq) == ([6, 5, 4], [3, 2, 1], None)
    assert history.get_page(1, None, size=6).next_seq is None


def test_a_wallet_without_entries_has_an_empty_history(engine: Engine, history: History) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wallets (id) VALUES (1)"))
    for entry_type in (None, *EntryType):
        page = history.get_page(1, entry_type, size=5)
        assert page == HistoryPage(entries=[], statement_balance_cents=0, version=0, next_seq=None)


def test_who_has_no_wallet_has_no_history(orders: Orders, history: History) -> None:
    orders.execute(deposit(1, 100))
    for entry_type in (None, *EntryType):
        with pytest.raises(WalletNotFound) as refused:
            history.get_page(9, entry_type, size=5)
        assert refused.value.wallet_id == 9


# Cursors


def walk(history: History, entry_type: EntryType | None, size: int, between: Callable[[], object]) -> list[int]:
    """Follow the cursor to its end; something happens between any two pages."""
    found: list[int] = []
    before_seq: int | None = None
    for _ in range(100):
        page = history.get_page(1, entry_type, size=size, before_seq=before_seq)
        found += seqs(page)
        if page.next_seq is None:
            return found
        before_seq = page.next_seq
        between()
    raise AssertionError("the cursor does not end")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
def test_a_cursor_shows_every_entry_once_while_new_ones_arrive(orders: Orders, history: History, size: int) -> None:
    deposit_often(orders, 1, 8)
    assert walk(history, None, size, lambda: deposit_often(orders, 1, 2)) == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_a_filtered_cursor_does_too(orders: Orders, history: History, size: int) -> None:
    for _ in range(4):
        orders.execute(deposit(1, 10))
        orders.execute(withdrawal(1, 1))
    assert walk(history, EntryType.WITHDRAWAL, size, lambda: orders.execute(withdrawal(1, 1))) == [8, 6, 4, 2]


def test_pages_by_number_shift_when_new_entries_arrive_which_is_what_cursors_are_for(
    orders: Orders, history: History
) -> None:
    deposit_often(orders, 1, 4)
    first = history.get_page(1, None, size=2)
    deposit_often(orders, 1, 1)
    assert seqs(history.get_page(1, None, size=2, page=2)) == [3, 2]  # 3 again
    assert seqs(history.get_page(1, None, size=2, before_seq=first.next_seq)) == [2, 1]


# One snapshot


def test_a_page_and_its_balance_are_of_one_snapshot_while_money_moves(orders: Orders, history: History) -> None:
    orders.execute(deposit(1, 1_000))
    over = threading.Event()

    def move() -> None:
        for number in itertools.count(1):
            if over.is_set():
                return
            cents = (number + 1) // 2  # comes and goes: there is always enough
            orders.execute(deposit(1, cents) if number % 2 else withdrawal(1, cents))

    mover = threading.Thread(target=move)
    mover.start()
    pages: list[HistoryPage] = []

    def has_moved() -> bool:
        pages.append(history.get_page(1, None, size=3))
        return len({page.statement_balance_cents for page in pages}) > 1

    try:
        assert wait_for(has_moved, PATIENCE_S)
        pages += [history.get_page(1, None, size=3) for _ in range(150)]
    finally:
        over.set()
        mover.join(PATIENCE_S)

    assert all(page.entries[0].balance_after_cents == page.statement_balance_cents for page in pages)
    assert all(seqs(page) == sorted(seqs(page), reverse=True) for page in pages)


@pytest.mark.parametrize("entry_type", [None, EntryType.DEPOSIT])
def test_a_page_is_one_statement(
    engine: Engine, orders: Orders, history: History, entry_type: EntryType | None
) -> None:
    orders.execute(deposit(1, 1))
    with statements(engine) as seen:
        history.get_page(1, entry_type, size=5, page=2)
    assert len(seen) == 1


# Single transfers


def test_only_the_parties_and_administrators_see_a_transfer(orders: Orders, history: History) -> None:
    for user in (1, 2, 3):
        orders.execute(deposit(user, 100))
    number = orders.accept(later(1, 2, 5)).transfer_id

    for seen_by in (1, 2, None):
        found = history.get_transfer(number, seen_by=seen_by)
        assert (found.id, found.kind, found.source, found.destination, found.amount_cents, found.status) == (
            number,
            Kind.TRANSFER,
            1,
            2,
            5,
            Status.PENDING,
        )
    with pytest.raises(TransferNotFound) as hidden:
        history.get_transfer(number, seen_by=3)
    with pytest.raises(TransferNotFound) as missing:
        history.get_transfer(number + 1, seen_by=3)
    assert (hidden.value.transfer_id, missing.value.transfer_id) == (number, number + 1)


def test_a_deposit_and_a_withdrawal_have_one_party(orders: Orders, history: History) -> None:
    orders.execute(deposit(2, 1))
    for order in (deposit(1, 10), withdrawal(1, 10)):
        number = orders.execute(order).transfer_id
        assert history.get_transfer(number, seen_by=1).status is Status.POSTED
        with pytest.raises(TransferNotFound):
            history.get_transfer(number, seen_by=2)


def test_a_transfer_shows_everything_that_its_job_left(engine: Engine, orders: Orders, history: History) -> None:
    orders.execute(deposit(1, 10))
    orders.execute(deposit(2, 10))
    number = orders.accept(later(1, 2, 5)).transfer_id
    with engine.begin() as connection:
        failed = (
            "UPDATE transfers SET status = 'failed', reason = 'worker_lost', attempts = 3, last_error = 'gone',"
            " completed_at = created_at + interval '1 minute', next_attempt_at = created_at + interval '1 second'"
            " WHERE id = :id"
        )
        connection.execute(text(failed), {"id": number})
    found = history.get_transfer(number, seen_by=None)

    assert (found.status, found.reason, found.attempts, found.last_error) == (
        Status.FAILED,
        "worker_lost",
        3,
        "gone",
    )
    assert found.completed_at is not None
    assert found.next_attempt_at is not None
    assert (found.completed_at - found.created_at).total_seconds() == 60
    assert (found.next_attempt_at - found.created_at).total_seconds() == 1


# What it costs


class statements:  # noqa: N801 - reads as what it is: with statements(engine) as seen
    """Collects what an engine sends, as PostgreSQL gets it, and what its sessions have run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seen: list[tuple[Any, Any]] = []
        self.execute = Session._execute

    def __enter__(self) -> list[tuple[Any, Any]]:
        event.listen(self.engine, "before_cursor_execute", self._note)

        def note(session: Session, statement: Statement, parameters: Sequence[object], epilogue: bytes) -> None:
            self.seen.append((statement, parameters))
            self.execute(session, statement, parameters, epilogue)

        Session._execute = note  # type: ignore[method-assign, assignment]
        return self.seen

    def __exit__(self, *_: object) -> None:
        Session._execute = self.execute  # type: ignore[method-assign]
        event.remove(self.engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.seen.append((statement, parameters))


def plan_nodes(engine: Engine, statement: str | Statement, parameters: Any = None) -> list[dict[str, Any]]:
    """Run a statement and return all nodes of the plan that PostgreSQL chose for it."""
    preparation = ""
    if isinstance(statement, Statement):
        preparation, statement = f"{replace(statement, name='explained').preparation};", statement.execution
        statement = statement.replace(statement.split()[1], "explained", 1)
    with engine.connect() as connection:
        explaining = f"{preparation} EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        explained = connection.exec_driver_sql(explaining, parameters).scalar_one()
        if preparation:
            connection.exec_driver_sql("DEALLOCATE explained")
        connection.rollback()
    return all_nodes(explained)


def all_nodes(explained: Any) -> list[dict[str, Any]]:
    """Return all nodes of a plan, as ``EXPLAIN (FORMAT JSON)`` answers it."""
    plan = explained if isinstance(explained, list) else json.loads(explained)
    nodes, ahead = [], [plan[0]["Plan"]]
    while ahead:
        node = ahead.pop()
        nodes.append(node)
        ahead += node.get("Plans", [])
    return nodes


def scanned(nodes: list[dict[str, Any]], table: str, *, only: str = "") -> int:
    """How many rows of a table were read, those that a filter threw away included; ``only`` by this kind of node."""
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes
        if node.get("Relation Name") == table and only in ("", node["Node Type"])
    )


def indexes(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["Index Name"] for node in nodes if "Index Name" in node}


ENTRIES = 30_000


@pytest.fixture
def long_histories(engine: Engine) -> None:
    """Wallet 1 and its neighbours with 30,000 entries each: every tenth a withdrawal, the others deposits."""
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO wallets (id, balance, version) SELECT id, 0, :n FROM generate_series(1, 3) AS id"),
            {"n": ENTRIES},
        )
        connection.execute(
            text("""
            INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
            SELECT wallet_id, seq, seq, CASE WHEN seq % 10 = 0 THEN 2 ELSE 1 END,
                CASE WHEN seq % 10 = 0 THEN -9 ELSE 1 END, 0
            FROM generate_series(1, 3) AS wallet_id, generate_series(1, :n) AS seq
            """),
            {"n": ENTRIES},
        )
        connection.execute(text("ANALYZE wallets, entries"))


def captured(engine: Engine, read: Callable[[], object]) -> tuple[str, Any]:
    with statements(engine) as seen:
        read()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.usefixtures("long_histories")
@pytest.mark.parametrize("page", [1, 2, 500, 999])
def test_a_page_costs_the_same_at_any_depth(engine: Engine, history: History, page: int) -> None:
    read: list[HistoryPage] = []
    query = captured(engine, lambda: read.append(history.get_page(1, None, size=30, page=page)))
    nodes = plan_nodes(engine, *query)

    newest = ENTRIES - (page - 1) * 30
    assert seqs(read[0]) == list(range(newest, newest - 30, -1))
    assert "entries_pkey" in indexes(nodes)
    assert scanned(nodes, "entries") == 31  # the page, and one to know whether there is another


@pytest.mark.usefixtures("long_histories")
def test_the_page_after_a_cursor_costs_the_same_at_any_depth(engine: Engine, history: History) -> None:
    nodes = plan_nodes(engine, *captured(engine, lambda: history.get_page(1, None, size=30, before_seq=100)))
    assert "entries_pkey" in indexes(nodes)
    assert scanned(nodes, "entries") == 31


@pytest.mark.usefixtures("long_histories")
def test_a_filtered_page_is_a_range_of_its_own_index(engine: Engine, history: History) -> None:
    """The rows before it are counted off on the index; those of another type are never touched."""
    nodes = plan_nodes(engine, *captured(engine, lambda: history.get_page(1, EntryType.WITHDRAWAL, size=30, page=50)))
    assert "entries_by_type" in indexes(nodes)
    assert scanned(nodes, "entries", only="Index Only Scan") == 49 * 30 + 1
    assert scanned(nodes, "entries", only="Index Scan") == 31


@pytest.mark.usefixtures("long_histories")
def test_the_filtered_page_after_a_cursor_costs_the_same_at_any_depth(engine: Engine, history: History) -> None:
    nodes = plan_nodes(
        engine, *captured(engine, lambda: history.get_page(1, EntryType.WITHDRAWAL, size=30, before_seq=1_000))
    )
    assert "entries_by_type" in indexes(nodes)
    assert scanned(nodes, "entries", only="Index Scan") == 31


@pytest.fixture
def many_transfers(engine: Engine) -> None:
    """20,000 transfers, each with a key; one in ten is pending."""
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO transfers (id, kind, source, destination, amount, status, completed_at,
                source_seq, destination_seq, idempotency_key, request_hash)
            SELECT id, 'transfer', id % 100 + 1, 101, 1, s.status, CASE s.status WHEN 'posted' THEN now() END,
                CASE s.status WHEN 'posted' THEN 1 END, CASE s.status WHEN 'posted' THEN 1 END, 'k' || id, 'hash'
            FROM generate_series(1, 20000) AS id,
                LATERAL (SELECT CASE WHEN id % 10 = 0 THEN 'pending' ELSE 'posted' END AS status) AS s
            """)
        )
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE transfers"))


@pytest.mark.usefixtures("many_transfers")
def test_a_key_is_found_by_its_unique_index(engine: Engine, orders: Orders) -> None:
    orders.execute(deposit(5, 10, key="mine"))
    with statements(engine) as seen:
        assert orders.execute(deposit(5, 10, key="mine")).replayed
    lookups = [each for each in seen if "idempotency_key =" in str(each[0])]
    by_group, by_itself = (plan_nodes(engine, *each) for each in lookups)

    assert indexes(by_itself) == {"transfers_by_key"}
    assert scanned(by_itself, "transfers") == 1
    # Besides, ids in doubt are looked for, and the wallets.
    assert indexes(by_group) == {"transfers_by_key", "transfers_pkey", "wallets_pkey"}
    assert scanned(by_group, "transfers") == 1


@pytest.mark.usefixtures("many_transfers")
def test_a_process_of_a_version_before_0018_finds_a_key_by_that_index_too(engine: Engine) -> None:
    """It asks for who has paid or deposited, and not whose the key is."""
    asked = "SELECT * FROM transfers WHERE coalesce(source, destination) = 6 AND idempotency_key = 'k5'"
    nodes = plan_nodes(engine, asked)
    assert indexes(nodes) == {"transfers_by_key"}
    assert scanned(nodes, "transfers") == 1


@pytest.mark.usefixtures("many_transfers")
def test_what_an_import_has_deposited_is_looked_up_one_by_one(engine: Engine) -> None:
    """All of an import has one key; a slice of it is not to go through the others."""
    with engine.begin() as connection:
        share(connection, 5_000)
        connection.execute(text("ANALYZE transfers"))
        query = text(
            "SELECT destination FROM transfers WHERE idempotency_key = 'shared' AND key_owner IS NULL LIMIT 1000"
        )
        users = list(connection.execute(query).scalars())
    asked = (array(users), texts([b"hash".hex()] * len(users)), "shared")
    nodes = plan_nodes(engine, imports._FIND_DEPOSITS, asked)
    assert indexes(nodes) == {"transfers_by_key"}
    assert scanned(nodes, "transfers") == 1_000
    assert read_rows(engine, imports._FIND_DEPOSITS, *asked) == [(1_000, 1_000)]


def test_entries_are_immutable() -> None:
    assert issubclass(HistoryEntry, tuple)
