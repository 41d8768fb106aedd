"""A key is its owner's alone: administrators' keys and those of wallets know nothing of each other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models.errors import IdempotencyKeyReused, OutcomeUnknown
from models.ledger.bulks import BulkItem, BulkOrder, Bulks
from models.ledger.listing import Filters, Listing
from models.ledger.orders import Orders
from models.ledger.transfer import Order, Receipt
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
    reversal,
    row_lock,
    transfer,
)
from tests.models.ledger.together import together
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy


@pytest.fixture(autouse=True)
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1 to 4 hold 100 cents each; after the test, whatever it did, the books balance."""
    for user in (1, 2, 3, 4):
        orders.execute(deposit(user, 100))
    yield
    check_books(engine)


@pytest.fixture
def other(orders: Orders) -> int:
    """The id of a transfer of 50 cents from 3 to 4."""
    return orders.execute(transfer(3, 4, 50)).transfer_id


def returned(original: int, amount_cents: int = 10, *, payee: int = 2, to: int = 1) -> Order:
    """What an administrator gives back, under a key."""
    return replace(reversal(payee, to, original, amount_cents, key="k"), by_administrator=True)


def as_before(receipt: Receipt) -> Receipt:
    return replace(receipt, replayed=True)


@pytest.mark.parametrize("is_users_first", [True, False])
@pytest.mark.parametrize("users", ["deposit", "part of it", "all that he paid"])
def test_who_was_paid_may_have_used_the_key_and_may_use_it(
    orders: Orders, engine: Engine, paid: int, users: str, is_users_first: bool
) -> None:
    """Also for the very same thing: it is asked for by two, and happens twice."""
    own = {
        "deposit": deposit(2, 10, key="k"),
        "part of it": reversal(2, 1, paid, 10, key="k"),
        "all that he paid": transfer(2, 1, 10, key="k"),
    }[users]
    asked = [own, returned(paid)] if is_users_first else [returned(paid), own]
    first, second = (orders.execute(order) for order in asked)
    assert not first.replayed
    assert not second.replayed
    assert [orders.execute(order) for order in asked] == [as_before(first), as_before(second)]
    assert sum(balances(engine).values()) == 400 + (10 if users == "deposit" else 0)


def test_what_a_user_orders_for_later_or_in_a_bulk_goes_under_his_own_key(
    orders: Orders, engine: Engine, snowflake: Snowflake, paid: int
) -> None:
    given = orders.execute(returned(paid))
    accepted = orders.accept(later(2, 1, 5, key="k"))
    assert not accepted.replayed
    assert orders.accept(later(2, 1, 5, key="k")) == replace(accepted, replayed=True)
    bulk = BulkOrder(user_id=2, items=[BulkItem(1, 5)], idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused) as refused:
        Bulks(engine, snowflake).accept(bulk)
    assert refused.value.transfer_id == accepted.transfer_id
    assert orders.execute(returned(paid)) == as_before(given)


@pytest.mark.parametrize("amount_cents", [0, 10])
def test_administrators_use_a_key_for_one_reversal_whoever_was_paid(
    orders: Orders, engine: Engine, paid: int, other: int, amount_cents: int
) -> None:
    """A program that has one key for all of its reversals by mistake moves money once."""
    first = orders.execute(returned(paid, amount_cents))
    before = balances(engine)
    for order in (returned(other, amount_cents, payee=4, to=3), returned(paid, 11)):
        with pytest.raises(IdempotencyKeyReused) as refused:
            orders.execute(order)
        assert refused.value.transfer_id == first.transfer_id
    assert orders.execute(returned(paid, amount_cents)) == as_before(first)
    assert balances(engine) == before


def test_a_key_is_found_by_its_owner(orders: Orders, engine: Engine, paid: int) -> None:
    listing = Listing(engine)

    def found(user_id: int | None) -> list[int]:
        page = listing.get_page(Filters(user_id=user_id, idempotency_key="k"), size=10)
        return [each.id for each in page.transfers]

    given = orders.execute(returned(paid)).transfer_id
    assert found(2) == []
    own = orders.execute(deposit(2, 10, key="k")).transfer_id
    assert (found(1), found(2), found(None)) == ([], [own], [given, own])


# Two at once


def told(orders: Orders, order: Order) -> tuple[str, int | None]:
    try:
        receipt = orders.execute(order)
    except IdempotencyKeyReused as refused:
        return refused.code, refused.transfer_id
    return "again" if receipt.replayed else "posted", receipt.transfer_id


@pytest.mark.parametrize("is_same", [True, False])
def test_of_two_processes_at_once_one_wins_and_the_other_is_told_of_it(
    engine: Engine, database_url: str, snowflake: Snowflake, paid: int, other: int, is_same: bool
) -> None:
    """Other payees have other wallets, so that nothing but the key keeps the two apart."""
    second = returned(paid) if is_same else returned(other, payee=4, to=3)
    with bounded_engine(database_url) as own, ThreadPoolExecutor(2) as threads:
        with row_lock(engine, 2, 4):
            one = threads.submit(told, Orders(engine, snowflake), returned(paid))
            two = threads.submit(told, Orders(own, snowflake), second)
            assert wait_for(lambda: count_waiting(engine) == 2, PATIENCE_S)
        answers = sorted((one.result(PATIENCE_S), two.result(PATIENCE_S)), key=lambda each: each[0], reverse=True)
    assert [word for word, _ in answers] == ["posted", "again" if is_same else "idempotency_key_reused"]
    assert answers[0][1] == answers[1][1]


def test_when_the_winner_rolls_back_the_other_one_takes_its_place(
    orders: Orders, engine: Engine, paid: int, other: int
) -> None:
    """Until then it waits: what is not to be seen yet stands in its way all the same."""
    with engine.connect() as winner, ThreadPoolExecutor(1) as threads:
        winner.execute(
            text(
                "INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, reverses,"
                " key_owner) VALUES (5, 'transfer', 4, 3, 10, 'k', :hash, :other, 0)"
            ),
            {"hash": returned(other, payee=4, to=3).request_hash, "other": other},
        )
        loser = threads.submit(told, orders, returned(paid))
        assert wait_for(lambda: count_waiting(engine) == 1, PATIENCE_S)
        winner.rollback()
        word, transfer_id = loser.result(PATIENCE_S)
    assert word == "posted"
    assert orders.execute(returned(paid)).transfer_id == transfer_id


def test_of_one_group_each_key_is_its_owners(orders: Orders, paid: int, other: int) -> None:
    asked = [
        returned(paid),
        deposit(2, 10, key="k"),
        returned(other, payee=4, to=3),
        reversal(4, 3, other, 10, key="k"),
        returned(paid),
    ]
    calls = [lambda order=order: told(orders, order) for order in asked]
    answers = [each.result(PATIENCE_S) for each in together(orders._posting, calls)]
    assert [word for word, _ in answers] == ["posted", "posted", "idempotency_key_reused", "posted", "again"]
    assert answers[0][1] == answers[2][1] == answers[4][1]


# Lost replies


@pytest.fixture
def proxied_orders(postgres_proxy: TcpProxy, snowflake: Snowflake) -> Iterator[Orders]:
    """Orders on a connection that can be cut."""
    with bounded_engine(postgres_proxy.url) as engine:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        yield Orders(engine, snowflake)


def is_writing(data: bytes) -> bool:
    return b"EXECUTE write_reversals" in data


def test_a_lost_reply_is_looked_up(proxied_orders: Orders, postgres_proxy: TcpProxy, paid: int, other: int) -> None:
    left = [True]

    def cut(data: bytes) -> bool:
        return is_writing(data) and bool(left) and left.pop()

    postgres_proxy.lose_reply_to(cut)
    receipt = proxied_orders.execute(returned(paid))
    assert not left
    assert (receipt.balance_cents, receipt.replayed) == (150, False)  # 160 - 10
    assert proxied_orders.execute(returned(paid)) == as_before(receipt)
    assert told(proxied_orders, returned(other, payee=4, to=3)) == ("idempotency_key_reused", receipt.transfer_id)


def test_what_could_not_be_looked_up_its_key_tells(proxied_orders: Orders, postgres_proxy: TcpProxy, paid: int) -> None:
    def refuse(data: bytes) -> bool:
        if is_writing(data):
            postgres_proxy.refuse_new()
        return is_writing(data)

    postgres_proxy.lose_reply_to(refuse)
    with pytest.raises(OutcomeUnknown) as unknown:
        proxied_orders.execute(returned(paid))
    postgres_proxy.refuse(refusing=False)
    expected = Receipt(transfer_id=unknown.value.transfer_id, balance_cents=150, replayed=True)
    assert proxied_orders.execute(returned(paid)) == expected


def test_a_key_outlives_what_leaves_for_an_archive(
    engine: Engine, orders: Orders, paid: int, other: int, tmp_path: Path
) -> None:
    receipt = orders.execute(returned(paid))
    age(engine)
    archive(engine, tmp_path)
    assert orders.execute(returned(paid)) == as_before(receipt)
    assert told(orders, returned(other, payee=4, to=3)) == ("idempotency_key_reused", receipt.transfer_id)
