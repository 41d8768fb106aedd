"""A transfer is called off once, before it is tried, and of a cancellation and a posting exactly one wins."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from models.errors import NotCancelable
from models.ledger import attempts, cancellation, events
from models.ledger.attempts import Seen
from models.ledger.history import History
from models.ledger.orders import Orders
from models.ledger.posting import Outcome
from models.ledger.transfer import Status
from ops.local.processes import wait_for
from tests.books import check_books
from tests.models.ledger.ordering import balances, count_waiting, deposit, later, post_now, transfer, uncommitted
from tests.patience import PATIENCE_S

# Raced one after the other.
ROUNDS = 60
FRESH = Seen(attempts=0, generation=1)
CANCELED = Outcome(Status.CANCELED)


@pytest.fixture
def funded(engine: Engine, orders: Orders) -> Iterator[Engine]:
    """Wallets 1 and 2, with 1000 cents each; after the test the books balance."""
    orders.execute(deposit(1, 1_000))
    orders.execute(deposit(2, 1_000))
    events.number(engine)
    yield engine
    check_books(engine)


def told(engine: Engine) -> list[tuple[str, int]]:
    """What has happened since the deposits, to which transfers."""
    events.number(engine)
    return [(each.type, each.transfer.id) for each in events.find_page(engine, after=2, limit=100).events]


def spend(engine: Engine, transfer_id: int, delay_s: float | None) -> None:
    with engine.begin() as connection:
        assert attempts.spend(connection, {transfer_id: FRESH}, {transfer_id: delay_s}, error="e")


def test_what_is_canceled_has_ended_and_moves_nothing(funded: Engine, orders: Orders, history: History) -> None:
    instant = datetime.now(UTC) + timedelta(hours=1)
    ids = [
        orders.accept(later(1, 2, 10)).transfer_id,
        orders.accept(later(1, 2, 10, not_before=instant)).transfer_id,
        orders.accept(later(1, 2, 10)).transfer_id,
    ]
    spend(funded, ids[2], 60.0)  # it waits for another attempt
    for each in ids:
        assert cancellation.cancel(funded, each)
        canceled = history.get_transfer(each, seen_by=1)
        assert (canceled.status, canceled.next_attempt_at, canceled.reason) == (Status.CANCELED, None, None)
        assert canceled.completed_at is not None
        assert canceled.completed_at >= canceled.created_at
    assert history.get_transfer(ids[1], seen_by=1).not_before == instant
    assert post_now(funded, ids).outcomes == dict.fromkeys(ids, CANCELED)
    assert attempts.find_coming(funded, limit=10) == []
    assert history.find_ended(ids) == set(ids)
    assert balances(funded) == {1: 1_000, 2: 1_000}
    assert told(funded) == [("transfer.canceled", each) for each in ids]


def test_the_event_shows_it_as_it_is(funded: Engine, orders: Orders, history: History) -> None:
    planned = orders.accept(later(1, 2, 10, not_before=datetime.now(UTC) + timedelta(hours=1), key="k")).transfer_id
    assert cancellation.cancel(funded, planned)
    events.number(funded)
    (event,) = events.find_page(funded, after=2, limit=10).events
    assert event.transfer == history.get_transfer(planned, seen_by=None)
    assert event.created_at == event.transfer.completed_at


def test_to_cancel_again_changes_nothing_and_is_not_told(funded: Engine, orders: Orders, history: History) -> None:
    pending = orders.accept(later(1, 2, 10)).transfer_id
    assert cancellation.cancel(funded, pending)
    first = history.get_transfer(pending, seen_by=1)
    assert not cancellation.cancel(funded, pending)
    assert history.get_transfer(pending, seen_by=1) == first
    assert told(funded) == [("transfer.canceled", pending)]


def test_what_has_ended_otherwise_stays_so(funded: Engine, orders: Orders, history: History) -> None:
    posted = orders.execute(transfer(1, 2, 10)).transfer_id
    rejected, dead = (orders.accept(later(1, 2, 900)).transfer_id for _ in range(2))
    orders.execute(transfer(1, 2, 500))
    post_now(funded, [rejected])
    spend(funded, dead, None)
    before = {each: history.get_transfer(each, seen_by=None) for each in (posted, rejected, dead)}
    assert [each.status for each in before.values()] == [Status.POSTED, Status.REJECTED, Status.FAILED]
    for each in (*before, 999):
        assert not cancellation.cancel(funded, each)
    assert {each: history.get_transfer(each, seen_by=None) for each in before} == before


def test_what_is_canceled_is_no_dead_letter_and_spends_nothing(funded: Engine, orders: Orders) -> None:
    pending = orders.accept(later(1, 2, 10)).transfer_id
    assert cancellation.cancel(funded, pending)
    assert attempts.find_dead_generations(funded, [pending]) == {}
    with funded.begin() as connection:
        assert attempts.reopen(connection, {pending: 1}) == []
        assert attempts.spend(connection, {pending: FRESH}, {pending: None}, error="late") == {}
        assert attempts.count_lost(connection, {pending: 5}) == {}
    assert attempts.find_outcomes(funded, [pending]) == {pending: CANCELED}


def test_what_is_being_tried_is_waited_for_and_then_not_cancelable(funded: Engine, orders: Orders) -> None:
    tried = orders.accept(later(1, 2, 10)).transfer_id
    with uncommitted(funded, [tried]), pytest.raises(NotCancelable, match="being tried"):
        cancellation.cancel(funded, tried)
    assert not cancellation.cancel(funded, tried)
    assert balances(funded) == {1: 990, 2: 1_010}


def test_who_waits_for_a_posting_that_ends_learns_that_it_came_first(funded: Engine, orders: Orders) -> None:
    tried = orders.accept(later(1, 2, 10)).transfer_id
    with ThreadPoolExecutor(1) as pool:
        with uncommitted(funded, [tried]):
            canceling = pool.submit(cancellation.cancel, funded, tried)
            assert wait_for(lambda: count_waiting(funded) > 0, PATIENCE_S)
        assert canceling.result(PATIENCE_S) is False
    assert attempts.find_outcomes(funded, [tried]) == {tried: Outcome(Status.POSTED)}


def test_who_posts_waits_for_a_cancellation_and_then_leaves_it_alone(funded: Engine, orders: Orders) -> None:
    pending, other = (orders.accept(later(1, 2, 10)).transfer_id for _ in range(2))
    with ThreadPoolExecutor(1) as pool, funded.connect() as canceling:
        canceling.execute(text("SELECT FROM transfers WHERE id = :id FOR NO KEY UPDATE"), {"id": pending})
        posting = pool.submit(post_now, funded, [pending, other])
        assert wait_for(lambda: count_waiting(funded) > 0, PATIENCE_S)
        canceling.execute(cancellation._CANCEL, {"id": pending})
        canceling.commit()
        assert posting.result(PATIENCE_S).outcomes == {pending: CANCELED, other: Outcome(Status.POSTED)}
    assert balances(funded) == {1: 990, 2: 1_010}


def test_raced_one_wins_and_both_are_told_the_same(funded: Engine, orders: Orders) -> None:
    won = {True: 0, False: 0}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            tried = orders.accept(later(1, 2, 1)).transfer_id
            posting = pool.submit(post_now, funded, [tried])
            canceling = pool.submit(cancellation.cancel, funded, tried)
            was_canceled, outcomes = canceling.result(PATIENCE_S), posting.result(PATIENCE_S).outcomes
            assert outcomes == {tried: CANCELED if was_canceled else Outcome(Status.POSTED)}
            assert attempts.find_outcomes(funded, [tried]) == outcomes
            won[was_canceled] += 1
    assert balances(funded) == {1: 1_000 - won[False], 2: 1_000 + won[False]}
    kinds = [kind for kind, _ in told(funded)]
    assert (kinds.count("transfer.canceled"), kinds.count("transfer.posted")) == (won[True], won[False])


def test_of_many_who_cancel_at_once_one_does(funded: Engine, orders: Orders) -> None:
    pending = orders.accept(later(1, 2, 1)).transfer_id
    with ThreadPoolExecutor(8) as pool:
        did = list(pool.map(lambda _: cancellation.cancel(funded, pending), range(24)))
    assert sum(did) == 1
    assert told(funded) == [("transfer.canceled", pending)]
