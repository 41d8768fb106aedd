"""A statement is a wallet's entries of some days, whole and in order, as they were when it was asked for."""

from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, insert

from models.errors import EntriesLeft, Unavailable, WalletNotFound
from models.ledger import statements
from models.ledger.orders import Orders
from models.ledger.settlement import EntryType
from models.ledger.statements import Statement, Statements
from models.schema.tables import entries, openings, wallets
from tests.models.ledger.archiving import age, archive
from tests.models.ledger.ordering import bounded_engine, deposit, transfer, withdrawal
from tests.proxy import TcpProxy

NOVEMBER = date(2026, 11, 1), date(2026, 11, 30)
ALWAYS = date(1, 1, 1), date(9999, 12, 31)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "SLICE", 3)


@pytest.fixture
def reader(engine: Engine) -> Statements:
    return Statements(engine)


def write(engine: Engine, user_id: int, instants: list[datetime]) -> None:
    """Deposits of 1, 2, 3 … cents, posted at these instants."""
    totals = list(accumulate(range(1, len(instants) + 1)))
    with engine.begin() as connection:
        balance = totals[-1] if totals else 0
        connection.execute(insert(wallets).values(id=user_id, balance=balance, version=len(instants)))
        rows = [
            {"wallet_id": user_id, "seq": n, "transfer_id": n, "type": 1, "amount": n, "balance_after": total,
             "created_at": instant}
            for n, (instant, total) in enumerate(zip(instants, totals, strict=True), 1)
        ]  # fmt: skip
        if rows:
            connection.execute(insert(entries), rows)


def summary(statement: Statement) -> tuple[list[int], int, int]:
    return list(statement.seqs), statement.opening_balance_cents, statement.closing_balance_cents


def test_both_days_belong_to_it_and_are_utcs(engine: Engine, reader: Statements) -> None:
    midnight, tick = datetime(2026, 11, 1, tzinfo=UTC), timedelta(microseconds=1)
    end = datetime(2026, 12, 1, tzinfo=UTC)
    write(engine, 7, [midnight - tick, midnight, midnight, end - tick, end, end])
    statement = reader.get_statement(7, *NOVEMBER)
    # 1 before it; 2, 3 and 4 in it.
    assert summary(statement) == ([2, 3, 4], 1, 10)
    assert [entry.seq for entry in reader.entries(statement)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ((date(2026, 10, 1), date(2026, 10, 31)), ([], 0, 0)),
        ((date(2026, 12, 1), date(2026, 12, 31)), ([], 3, 3)),
        ((date(2026, 11, 11), date(2026, 11, 19)), ([], 1, 1)),
        ((date(2026, 11, 10), date(2026, 11, 10)), ([1], 0, 1)),
        (ALWAYS, ([1, 2], 0, 3)),
    ],
)
def test_days_without_entries_have_balances_all_the_same(
    engine: Engine, reader: Statements, days: tuple[date, date], expected: tuple[list[int], int, int]
) -> None:
    write(engine, 7, [datetime(2026, 11, 10, 12, tzinfo=UTC), datetime(2026, 11, 20, 12, tzinfo=UTC)])
    assert summary(reader.get_statement(7, *days)) == expected


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(0, 20), st.integers(0, 20))
def test_whatever_the_days_it_has_what_a_naive_look_finds(
    shared_engine: Engine, offsets: list[int], first: int, last: int
) -> None:
    with shared_engine.begin() as connection:
        for table in (entries, openings, wallets):
            connection.execute(table.delete())
    start = date(2026, 11, 1)
    write(shared_engine, 7, [datetime(2026, 11, 1, 23, tzinfo=UTC) + timedelta(days=each) for each in sorted(offsets)])
    reader = Statements(shared_engine)
    statement = reader.get_statement(7, start + timedelta(days=first), start + timedelta(days=last))
    expected = [n for n, day in enumerate(sorted(offsets), 1) if first <= day <= last]
    assert [entry.seq for entry in reader.entries(statement)] == expected
    assert statement.closing_balance_cents - statement.opening_balance_cents == sum(expected)


def test_entries_are_those_of_the_ledger_oldest_first(orders: Orders, reader: Statements) -> None:
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 100))
    paid = orders.execute(transfer(1, 2, 30)).transfer_id
    orders.execute(withdrawal(1, 7))
    found = list(reader.entries(reader.get_statement(1, *ALWAYS)))
    assert [(each.type, each.amount_cents, each.balance_after_cents) for each in found] == [
        (EntryType.DEPOSIT, 100, 100),
        (EntryType.TRANSFER, -30, 70),
        (EntryType.WITHDRAWAL, -7, 63),
    ]
    assert (found[1].transfer_id, found[1].counterparty) == (paid, 2)


def test_what_is_posted_while_it_is_read_is_not_in_it(orders: Orders, reader: Statements) -> None:
    for _ in range(5):
        orders.execute(deposit(1, 1))
    statement = reader.get_statement(1, *ALWAYS)
    reading = reader.entries(statement)
    first = list(islice(reading, 1))
    orders.execute(deposit(1, 1_000))
    assert [entry.seq for entry in [*first, *reading]] == [1, 2, 3, 4, 5]
    assert summary(statement) == ([1, 2, 3, 4, 5], 0, 5)


def test_no_more_than_a_slice_is_ever_read_ahead(engine: Engine, reader: Statements) -> None:
    write(engine, 7, [datetime(2026, 11, 1, tzinfo=UTC)] * 10)
    statement = reader.get_statement(7, *NOVEMBER)
    asked: list[int] = []
    event.listen(engine, "after_cursor_execute", on_execute := lambda *arguments: asked.append(arguments[1].rowcount))
    try:
        reading = reader.entries(statement)
        assert [next(reading).seq for _ in range(4)] == [1, 2, 3, 4]
        assert asked == [3, 3]
        assert len(list(reading)) == 6
        assert asked == [3, 3, 3, 1]
    finally:
        event.remove(engine, "after_cursor_execute", on_execute)


def test_a_wallet_is_seen_with_its_newest_entries_first(orders: Orders, reader: Statements) -> None:
    for amount in (1, 2, 3):
        orders.execute(deposit(1, amount))
    wallet = reader.get_wallet(1, newest=2)
    assert (wallet.balance_cents, wallet.version, [each.amount_cents for each in wallet.newest]) == (6, 3, [3, 2])
    assert [each.amount_cents for each in reader.get_wallet(1, newest=100).newest] == [3, 2, 1]
    assert reader.get_wallet(1, newest=0).newest == []
    assert wallet.opened_at <= wallet.newest[-1].created_at


def test_without_a_wallet_there_is_nothing_to_read(reader: Statements) -> None:
    with pytest.raises(WalletNotFound):
        reader.get_wallet(1, newest=1)
    with pytest.raises(WalletNotFound):
        reader.get_statement(1, *NOVEMBER)


def test_a_database_that_goes_away_in_the_middle_is_told(orders: Orders, postgres_proxy: TcpProxy) -> None:
    for _ in range(5):
        orders.execute(deposit(1, 1))
    with bounded_engine(postgres_proxy.url) as cut:
        reader = Statements(cut)
        reading = reader.entries(reader.get_statement(1, *ALWAYS))
        next(reading)
        postgres_proxy.refuse()
        with pytest.raises(Unavailable):
            list(reading)


# At an instant


@given(gaps=st.lists(st.integers(0, 3), max_size=12), at=st.integers(-1, 40))
def test_the_balance_at_an_instant_is_the_sum_of_what_was_posted_by_then(
    shared_engine: Engine, gaps: list[int], at: int
) -> None:
    """Several may be posted at one instant."""
    begin, seconds = datetime(2026, 11, 1, tzinfo=UTC), list(accumulate(gaps))
    with shared_engine.begin() as connection:
        connection.execute(delete(entries))
        connection.execute(delete(openings))
        connection.execute(delete(wallets))
    write(shared_engine, 7, [begin + timedelta(seconds=each) for each in seconds])
    expected = sum(cents for cents, second in enumerate(seconds, 1) if second <= at)
    assert Statements(shared_engine).get_balance_at(7, begin + timedelta(seconds=at)) == expected


def test_the_balance_at_an_instant_is_looked_up(engine: Engine, reader: Statements) -> None:
    """By halving: of a thousand entries no more than eleven are read."""
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    write(engine, 7, [begin + timedelta(seconds=each) for each in range(1_000)])
    asked = list[str]()
    event.listen(engine, "before_cursor_execute", note := lambda *given: asked.append(given[2]))
    try:
        assert reader.get_balance_at(7, begin + timedelta(seconds=499)) == 500 * 501 // 2
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len([each for each in asked if "entries" in each]) <= 11
    assert "sum" not in str(asked)


def test_there_is_no_balance_at_any_time_without_a_wallet(reader: Statements) -> None:
    with pytest.raises(WalletNotFound):
        reader.get_balance_at(7, datetime(2026, 11, 1, tzinfo=UTC))


# Where entries have left


@pytest.fixture
def opened(engine: Engine, orders: Orders, reader: Statements, tmp_path: Path) -> Statements:
    """Wallet 7 has left what was posted on three days of January: 10 + 20 + 30. Entries 4 and 5 are February's."""
    for number in (1, 2, 3, 4, 5):
        orders.execute(deposit(7, 10 * number))
        age(engine, f"seq = {number}", at=JANUARY + timedelta(days=10 * number))  # the 11th, 21st, 31st, …
    assert [each.entries for each in archive(engine, tmp_path, datetime(2026, 2, 1, tzinfo=UTC))] == [3]
    return reader


JANUARY = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_statement_begins_with_the_opening_once_what_has_left_is_over(opened: Statements) -> None:
    statement = opened.get_statement(7, date(2026, 2, 1), date(2026, 2, 28))
    assert summary(statement) == ([4, 5], 60, 150)
    assert [entry.seq for entry in opened.entries(statement)] == [4, 5]
    assert summary(opened.get_statement(7, date(2026, 2, 11), date(2026, 2, 28))) == ([5], 100, 150)
    assert summary(opened.get_statement(7, date(2026, 2, 1), date(2026, 2, 9))) == ([], 60, 60)
    assert summary(opened.get_statement(7, date(2026, 3, 1), date(2026, 3, 31))) == ([], 150, 150)


@pytest.mark.parametrize("first", [date(1, 1, 1), date(2026, 1, 21), date(2026, 1, 31)])
@pytest.mark.parametrize("last", [date(2026, 1, 31), date(9999, 12, 31)])
def test_there_is_none_of_days_that_have_left(opened: Statements, first: date, last: date) -> None:
    with pytest.raises(EntriesLeft) as refused:
        opened.get_statement(7, first, last)
    assert str(refused.value) == (
        "Entries of this time have left the database for an archive. (wallet_id=7, last_day=2026-01-31)"
    )


def test_the_balance_at_an_instant_is_that_of_the_opening_at_the_earliest(opened: Statements) -> None:
    """The newest of those that have left was posted on the 31st; 100 is what the 11th of February left."""
    tick = timedelta(microseconds=1)
    newest, next_one = JANUARY + timedelta(days=30, seconds=3), JANUARY + timedelta(days=40, seconds=4)
    with pytest.raises(EntriesLeft, match="last_day=2026-01-31"):
        opened.get_balance_at(7, newest - tick)
    instants = [newest, next_one, next_one + tick, datetime(2026, 3, 1, tzinfo=UTC)]
    assert [opened.get_balance_at(7, instant) for instant in instants] == [60, 100, 100, 150]


def test_a_wallet_is_shown_with_what_is_left(opened: Statements) -> None:
    view = opened.get_wallet(7, newest=10)
    assert (view.balance_cents, view.version, [entry.seq for entry in view.newest]) == (150, 5, [5, 4])


def test_what_leaves_while_it_is_written_down_ends_it(engine: Engine, opened: Statements, tmp_path: Path) -> None:
    """Half a statement is none."""
    statement = opened.get_statement(7, date(2026, 2, 1), date(2026, 2, 28))
    archive(engine, tmp_path, datetime(2026, 3, 1, tzinfo=UTC))
    with pytest.raises(EntriesLeft, match=r"wallet_id=7\)$"):
        list(opened.entries(statement))


def test_what_leaves_while_days_are_looked_for_ends_it(
    engine: Engine, opened: Statements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened._wallet(7)
    archive(engine, tmp_path, datetime(2026, 3, 1, tzinfo=UTC))
    monkeypatch.setattr(opened, "_wallet", lambda _: found)
    with pytest.raises(EntriesLeft):
        opened.get_statement(7, date(2026, 2, 1), date(2026, 2, 28))
