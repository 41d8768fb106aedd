"""What was paid is given back once, in parts or whole, and never more of it, however it is repeated and raced."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models.errors import BalanceInsufficient, NotReversible, Refused, ReversalExceeds, Unavailable
from models.ledger.history import History
from models.ledger.orders import Orders
from models.ledger.transfer import Kind, Order, Receipt
from models.snowflake.ids import Snowflake
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.archiving import age, archive
from tests.models.ledger.ordering import (
    balances,
    bounded_engine,
    count_waiting,
    deposit,
    later,
    post_now,
    reversal,
    row_lock,
    transfer,
    withdrawal,
)
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy


@pytest.fixture(autouse=True)
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1 and 2 hold 100 cents each; after the test, whatever it did, the books balance."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 100))
    yield
    check_books(engine)


def back(original: int, amount_cents: int = 0, *, key: str | None = None) -> Order:
    return reversal(2, 1, original, amount_cents, key=key)


def test_without_an_amount_all_of_it_goes_back(orders: Orders, engine: Engine, history: History, paid: int) -> None:
    receipt = orders.execute(back(paid))

    assert receipt.balance_cents == 100  # 160 - 60
    assert balances(engine) == {1: 100, 2: 100}
    original, given = (history.get_transfer(each, seen_by=None) for each in (paid, receipt.transfer_id))
    assert (original.reversed_cents, original.reverses) == (60, None)
    assert (given.amount_cents, given.reverses, given.reversed_cents) == (60, paid, None)
    assert (given.kind, given.source, given.destination) == (Kind.TRANSFER, 2, 1)


def test_in_parts_and_then_the_rest_and_then_nothing_more(orders: Orders, history: History, paid: int) -> None:
    assert orders.execute(back(paid, 25)).balance_cents == 135  # 160 - 25
    with pytest.raises(ReversalExceeds) as refused:
        orders.execute(back(paid, 36))  # 60 - 25 = 35 are left
    assert refused.value.left == 35
    assert orders.execute(back(paid, 1)).balance_cents == 134
    assert orders.execute(back(paid)).balance_cents == 100  # 134 - 34
    for amount_cents in (1, 0):
        with pytest.raises(ReversalExceeds):
            orders.execute(back(paid, amount_cents))
    assert history.get_transfer(paid, seen_by=1).reversed_cents == 60


def test_a_deposit_is_taken_back_and_a_withdrawal_put_back(orders: Orders, engine: Engine, history: History) -> None:
    brought = orders.execute(deposit(1, 30)).transfer_id
    taken = orders.execute(withdrawal(2, 30)).transfer_id

    assert orders.execute(reversal(1, None, brought, 10)).balance_cents == 120  # 130 - 10
    put_back = orders.execute(reversal(None, 2, taken))
    assert put_back.balance_cents == 100  # 70 + 30
    assert history.get_transfer(put_back.transfer_id, seen_by=2).kind is Kind.DEPOSIT
    assert balances(engine) == {1: 120, 2: 100}


def test_what_is_not_posted_or_is_a_reversal_cannot_be_given_back(orders: Orders, engine: Engine, paid: int) -> None:
    given = orders.execute(back(paid, 10)).transfer_id
    waiting = orders.accept(later(1, 2, 10)).transfer_id
    refused = orders.accept(later(1, 2, 50)).transfer_id
    orders.execute(withdrawal(1, 50))  # 100 - 60 + 10 - 50: nothing is left for these
    for order in (back(waiting), reversal(1, 2, given), back(5)):
        with pytest.raises(NotReversible):
            orders.execute(order)
    post_now(engine, [waiting, refused])
    with pytest.raises(NotReversible):
        orders.execute(back(refused))


def test_who_has_spent_it_cannot_give_it_back(orders: Orders, history: History, paid: int) -> None:
    orders.execute(withdrawal(2, 101))  # 160 - 101 = 59
    with pytest.raises(BalanceInsufficient):
        orders.execute(back(paid))
    assert history.get_transfer(paid, seen_by=1).reversed_cents is None
    assert orders.execute(back(paid, 59)).balance_cents == 0


def test_a_repetition_under_the_same_key_gives_the_first_answer_and_moves_nothing(
    orders: Orders, engine: Engine, paid: int
) -> None:
    """Also after there is nothing left to give back, where it would be refused without the key."""
    first = orders.execute(back(paid, key="refund"))
    orders.execute(deposit(2, 500))
    for _ in range(3):
        again = orders.execute(back(paid, key="refund"))
        assert again == Receipt(transfer_id=first.transfer_id, balance_cents=first.balance_cents, replayed=True)
    assert balances(engine) == {1: 100, 2: 600}


def test_the_same_key_for_another_part_or_another_original_is_refused(orders: Orders, paid: int) -> None:
    other = orders.execute(transfer(1, 2, 5)).transfer_id
    orders.execute(back(paid, 10, key="refund"))
    for order in (back(paid, 11, key="refund"), back(paid, key="refund"), back(other, 10, key="refund")):
        with pytest.raises(Refused) as refused:
            orders.execute(order)
        assert refused.value.code == "idempotency_key_reused"


def attempt(orders: Orders, order: Order) -> str:
    try:
        orders.execute(order)
    except Refused as refused:
        return refused.code
    return "posted"


@pytest.mark.parametrize("amount_cents", [0, 60, 31])
def test_of_many_at_once_one_gives_it_back(orders: Orders, engine: Engine, paid: int, amount_cents: int) -> None:
    """They come while somebody holds the wallet, so that all of them wait for the same locks."""
    with ThreadPoolExecutor(12) as threads, row_lock(engine, 2):
        tries = [threads.submit(attempt, orders, back(paid, amount_cents)) for _ in range(12)]
        assert wait_for(lambda: count_waiting(engine) > 0, PATIENCE_S)
    assert sorted(each.result(PATIENCE_S) for each in tries) == ["posted", *["reversal_exceeds"] * 11]


def test_processes_that_know_nothing_of_each_other_give_it_back_once(
    engine: Engine, database_url: str, snowflake: Snowflake, paid: int
) -> None:
    """Each has groups of its own, so that the row of the original is all that keeps them apart."""
    with bounded_engine(database_url) as other, ThreadPoolExecutor(16) as threads:
        both = [Orders(engine, snowflake), Orders(other, snowflake)]
        tries = [threads.submit(attempt, both[number % 2], back(paid, 7)) for number in range(16)]
        told = [each.result(PATIENCE_S) for each in tries]
    assert sorted(told) == [*["posted"] * 8, *["reversal_exceeds"] * 8]  # 8 * 7 = 56, and 4 are left


def test_a_reversal_and_a_withdrawal_of_the_same_money_do_not_both_get_it(orders: Orders, engine: Engine) -> None:
    for _ in range(20):
        paid = orders.execute(transfer(1, 2, 100)).transfer_id
        with ThreadPoolExecutor(2) as threads:
            returned = threads.submit(attempt, orders, back(paid, 100))
            spent = threads.submit(attempt, orders, withdrawal(2, 200))
            assert {returned.result(), spent.result()} == {"posted", "balance_insufficient"}
        if returned.result() == "balance_insufficient":
            orders.execute(deposit(1, 100))
            orders.execute(deposit(2, 100))
        assert balances(engine) == {1: 100, 2: 100}


def test_one_that_finds_the_original_held_waits_and_holds_nobody_up(orders: Orders, engine: Engine, paid: int) -> None:
    """A job that is run twice locks what it has posted; whoever comes in the same group goes on meanwhile."""
    with ThreadPoolExecutor(2) as threads, engine.connect() as holder:
        holder.execute(text("SELECT FROM transfers WHERE id = :id FOR NO KEY UPDATE"), {"id": paid})
        returned = threads.submit(attempt, orders, back(paid))
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        assert threads.submit(attempt, orders, transfer(1, 2, 1)).result(PATIENCE_S) == "posted"
        assert not returned.done()
        holder.rollback()
        assert returned.result(PATIENCE_S) == "posted"


@pytest.fixture
def proxied_orders(postgres_proxy: TcpProxy, snowflake: Snowflake) -> Iterator[Orders]:
    """Orders on a connection that can be cut."""
    with bounded_engine(postgres_proxy.url) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield Orders(engine, snowflake)


def is_writing(data: bytes) -> bool:
    return b"EXECUTE write_reversals" in data


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("amount_cents", [0, 60])
def test_one_that_was_cut_off_moves_money_once(
    proxied_orders: Orders,
    postgres_proxy: TcpProxy,
    paid: int,
    amount_cents: int,
    is_read: bool,
) -> None:
    """Its connection breaks before the server has read it, or after."""
    left = [True]

    def cut(data: bytes) -> bool:
        if not is_writing(data) or not left:
            return False
        left.clear()
        if not is_read:
            raise ConnectionResetError
        return True

    postgres_proxy.lose_reply_to(cut)
    receipt = proxied_orders.execute(back(paid, amount_cents))

    assert not left
    assert receipt.balance_cents == 100
    assert not receipt.replayed


def test_what_cannot_be_written_counts_nowhere(engine: Engine, orders: Orders, history: History, paid: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION refuse()
            """)
        )
    try:
        with pytest.raises(Unavailable):
            orders.execute(back(paid))
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION refuse CASCADE"))
    assert history.get_transfer(paid, seen_by=1).reversed_cents is None
    assert orders.execute(back(paid)).balance_cents == 100


def test_originals_left_for_an_archive_cannot_be_given_back(
    engine: Engine, orders: Orders, paid: int, tmp_path: Path
) -> None:
    age(engine)
    archive(engine, tmp_path)
    with pytest.raises(NotReversible):
        orders.execute(back(paid))
