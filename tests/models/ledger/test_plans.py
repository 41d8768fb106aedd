"""What is planned is durable at once, tried by nobody before its instant, and decided on what there is then."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine

from models.errors import IdempotencyKeyReused, SelfTransferInvalid, WalletNotFound
from models.ledger import attempts
from models.ledger.frontier import Frontier
from models.ledger.history import History
from models.ledger.orders import Orders
from models.ledger.placement import Fate, Placement, record_together
from models.ledger.posting import Outcome
from models.ledger.transfer import Acceptance, Status
from models.snowflake.ids import Snowflake
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, come, deposit, is_acceptance, later, post_now
from tests.proxy import TcpProxy

PENDING = Outcome(Status.PENDING)


def ahead(seconds: float = 3_600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.fixture
def funded(engine: Engine, orders: Orders) -> Iterator[Engine]:
    """Wallets 1 and 2, with 100 cents each; after the test the books balance."""
    orders.execute(deposit(1, 100))
    orders.execute(deposit(2, 100))
    yield engine
    check_books(engine)


def test_it_is_recorded_and_becomes_due_as_planned(funded: Engine, orders: Orders, history: History) -> None:
    instant = ahead()
    planned = orders.accept(later(1, 2, 10, not_before=instant)).transfer_id
    transfer = history.get_transfer(planned, seen_by=1)
    assert (transfer.status, transfer.not_before, transfer.next_attempt_at) == (Status.PENDING, instant, instant)
    assert balances(funded) == {1: 100, 2: 100}
    frontier = Frontier(funded)
    assert frontier.next_page(10) == []
    assert [(each.id, each.due) for each in attempts.find_coming(funded, limit=10)] == [(planned, instant)]
    come(funded, planned)
    assert frontier.next_page(10) == [planned]
    assert attempts.find_coming(funded, limit=10) == []


def test_whoever_brings_it_early_finds_it_pending_and_leaves_it_alone(funded: Engine, orders: Orders) -> None:
    planned = orders.accept(later(1, 2, 10, not_before=ahead())).transfer_id
    at_once = orders.accept(later(1, 2, 1)).transfer_id
    for wait_for_locks in (True, False):
        posting = post_now(funded, [planned], wait_for_locks=wait_for_locks)
        assert (posting.outcomes, posting.decided) == ({planned: PENDING}, [])
    assert post_now(funded, [planned, at_once]).decided == [at_once]
    assert attempts.find_seen(funded, [planned]) == {}
    assert attempts.find_early(funded, [planned, at_once]).keys() == {planned}
    assert balances(funded) == {1: 99, 2: 101}
    come(funded, planned)
    assert attempts.find_seen(funded, [planned]).keys() == {planned}
    assert attempts.find_early(funded, [planned]) == {}
    posting = post_now(funded, [planned])
    assert posting.decided == [planned]
    assert posting.planned.keys() == {planned}
    assert balances(funded) == {1: 89, 2: 111}


def test_funds_are_looked_at_then_and_not_now(funded: Engine, orders: Orders) -> None:
    never, by_then = (orders.accept(later(1, 2, cents, not_before=ahead())).transfer_id for cents in (500, 150))
    orders.execute(deposit(1, 60))
    come(funded, never, by_then)
    assert post_now(funded, [never, by_then]).outcomes == {
        never: Outcome(Status.REJECTED, "balance_insufficient"),
        by_then: Outcome(Status.POSTED),
    }


def test_parties_are_looked_at_now(funded: Engine, orders: Orders) -> None:
    for order, error in (
        (later(1, 3, 10), WalletNotFound),
        (later(3, 1, 10), WalletNotFound),
        (later(1, 1, 10), SelfTransferInvalid),
    ):
        with pytest.raises(error):
            orders.accept(replace(order, not_before=ahead()))
    assert attempts.find_coming(funded, limit=10) == []


@pytest.mark.parametrize("instant", [ahead(-1), ahead(-86_400 * 400), datetime(1, 1, 1, tzinfo=UTC)])
def test_what_has_passed_is_due_from_now_on(
    funded: Engine, orders: Orders, history: History, instant: datetime
) -> None:
    frontier = Frontier(funded)
    assert frontier.next_page(10) == []
    planned = orders.accept(later(1, 2, 500, not_before=instant)).transfer_id
    transfer = history.get_transfer(planned, seen_by=1)
    assert (transfer.not_before, transfer.next_attempt_at) == (instant, None)
    assert frontier.next_page(10) == [planned]  # nothing becomes due where nobody looks any more
    assert post_now(funded, [planned]).outcomes[planned].status is Status.REJECTED


def test_a_key_is_bound_to_the_instant_however_it_is_spelled(funded: Engine, orders: Orders) -> None:
    instant = ahead()
    order = later(1, 2, 500, key="k", not_before=instant)
    first = orders.accept(order)
    elsewhere = instant.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert orders.accept(replace(order, not_before=elsewhere)) == Acceptance(
        transfer_id=first.transfer_id, replayed=True
    )
    for other in (None, instant + timedelta(microseconds=1)):
        with pytest.raises(IdempotencyKeyReused):
            orders.accept(replace(order, not_before=other))
    plain = later(1, 2, 5, key="plain")
    orders.accept(plain)
    with pytest.raises(IdempotencyKeyReused):
        orders.accept(replace(plain, not_before=instant))
    assert len(attempts.find_coming(funded, limit=10)) == 1


def test_a_lost_reply_makes_no_second_one(
    funded: Engine, snowflake: Snowflake, postgres_proxy: TcpProxy, history: History
) -> None:
    instant = ahead()
    with bounded_engine(postgres_proxy.url) as cut:
        orders = Orders(cut, snowflake)
        postgres_proxy.lose_reply_to(is_acceptance)
        in_doubt = orders.accept(later(1, 2, 500, not_before=instant))
    assert not in_doubt.replayed
    assert history.get_transfer(in_doubt.transfer_id, seen_by=1).next_attempt_at == instant
    assert [each.id for each in attempts.find_coming(funded, limit=10)] == [in_doubt.transfer_id]


def test_the_next_to_come_are_those_that_are_due_first(funded: Engine, orders: Orders) -> None:
    seconds = [300, 100, 500, 200, 400]
    planned = {each: orders.accept(later(1, 2, 1, not_before=ahead(each))).transfer_id for each in seconds}
    found = [each.id for each in attempts.find_coming(funded, limit=3)]
    assert found == [planned[each] for each in sorted(seconds)[:3]]


def test_planned_and_unplanned_are_recorded_in_one_group(funded: Engine, history: History) -> None:
    instant = ahead()
    orders = [later(1, 2, 1), later(1, 2, 500, not_before=instant), later(1, 2, 500), later(1, 2, 2)]
    group = [Placement(each, 70 + number) for number, each in enumerate(orders)]
    record_together(group, funded)
    assert [each.fate for each in group] == [Fate.DONE, Fate.DONE, Fate.TAKEN, Fate.DONE]  # one is not covered
    assert [history.get_transfer(each, seen_by=1).not_before for each in (70, 71, 73)] == [None, instant, None]
