"""A defect of ours, before or after the commit: nobody is told that nothing moved when that is not known."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from models.cache.wallet_cache import Eviction, nobody_caches
from models.database.session import Session, Statement
from models.errors import OutcomeUnknown, Unavailable
from models.ledger import orders as orders_module
from models.ledger.orders import Orders
from models.ledger.transfer import Order, Status
from models.snowflake.ids import Snowflake
from tests.books import check_books
from tests.models.cache.caching import cache_at, kept
from tests.models.ledger.ordering import balances, count_transfers, deposit, later, transfer, withdrawal
from tests.models.ledger.together import together
from tests.patience import PATIENCE_S

GROUP = [transfer(1, 2, 10), withdrawal(3, 10, key="k"), deposit(4, 10)]
BEFORE, AFTER = {1: 100, 2: 100, 3: 100, 4: 100}, {1: 90, 2: 110, 3: 90, 4: 110}


class FaultyCache:
    """A cache with a defect, before the commit, after it, or both."""

    def __init__(self, *, before: bool = False, after: bool = False) -> None:
        self.before, self.after = before, after

    def evict(self, versions: Any) -> Eviction:
        if self.before:
            raise TypeError("told to")
        return nobody_caches(versions)

    def evict_again(self, _eviction: Eviction) -> None:
        if self.after:
            raise TypeError("told to")


@pytest.fixture(autouse=True)
def funded(engine: Engine, orders: Orders) -> Iterator[None]:
    """Wallets 1 to 4 hold 100 cents each; after the test, whatever it did, the books balance."""
    for user in BEFORE:
        orders.execute(deposit(user, 100))
    yield
    check_books(engine)


def execute(orders: Orders, given: Sequence[Order]) -> list[Any]:
    """Have them posted as one group, and return how each ended."""
    answers = together(orders._posting, [partial(orders.execute, each) for each in given])
    return [each.exception(PATIENCE_S) or each.result() for each in answers]


@contextmanager
def defect(
    where: Callable[[Statement, str], bool], monkeypatch: pytest.MonkeyPatch, *, times: int = 100
) -> Iterator[None]:
    """Let what comes after a statement has been run fail, so many times."""
    run, left = Session._execute, [None] * times

    def broken(session: Session, statement: Statement, parameters: Sequence[object], epilogue: bytes) -> None:
        run(session, statement, parameters, epilogue)
        if where(statement, epilogue.decode()) and left:
            left.pop()
            raise TypeError("told to")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_execute", broken)
        yield


def commits(_statement: Statement, epilogue: str) -> bool:
    return epilogue.endswith("COMMIT")


def records(statement: Statement, _epilogue: str) -> bool:
    return statement.name == "record_orders"


@pytest.mark.parametrize("size", [1, 3])
def test_a_defect_in_what_is_left_to_do_after_the_commit_is_nobodys_business(
    engine: Engine, snowflake: Snowflake, size: int
) -> None:
    orders = Orders(engine, snowflake, FaultyCache(after=True))
    with capture_logs() as logged:
        ends = execute(orders, GROUP[:size])
    assert [(each.replayed, each.balance_cents) for each in ends] == [(False, 90), (False, 90), (False, 110)][:size]
    assert [line["log_level"] for line in logged if line["event"] == "unexpected error"] == ["critical"]
    assert count_transfers(engine) == 4 + size


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("times", [1, 100])
def test_a_defect_just_after_the_commit_is_looked_up_and_answered_truly(
    *, engine: Engine, orders: Orders, monkeypatch: pytest.MonkeyPatch, times: int, size: int
) -> None:
    with defect(commits, monkeypatch, times=times):
        ends = execute(orders, GROUP[:size])
    assert [(each.replayed, each.balance_cents) for each in ends] == [(False, 90), (False, 90), (False, 110)][:size]
    assert count_transfers(engine) == 4 + size


def test_a_defect_just_after_the_commit_that_cannot_be_looked_up_is_an_unknown_outcome_with_its_id(
    engine: Engine, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("told to")

    monkeypatch.setattr(orders_module, "_find_recorded", broken)
    with defect(commits, monkeypatch):
        ends = execute(orders, GROUP)
    assert [type(each) for each in ends] == [OutcomeUnknown] * 3
    assert balances(engine) == AFTER
    assert len({each.transfer_id for each in ends}) == 3
    monkeypatch.undo()
    again = orders.execute(GROUP[1])
    assert (again.transfer_id, again.replayed) == (ends[1].transfer_id, True)


@pytest.mark.parametrize("size", [1, 3])
def test_a_defect_before_anything_was_sent_means_that_nothing_moved(
    engine: Engine, snowflake: Snowflake, size: int
) -> None:
    ends = execute(Orders(engine, snowflake, FaultyCache(before=True)), GROUP[:size])
    assert [type(each) for each in ends] == [Unavailable] * size
    assert balances(engine) == BEFORE


@pytest.mark.parametrize("times", [1, 100])
def test_a_defect_just_after_an_acceptance_is_looked_up(
    *, engine: Engine, orders: Orders, history: Any, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    given = [later(1, 2, 10), later(1, 2, 10, key="k"), later(3, 4, 10)]
    with defect(records, monkeypatch, times=times):
        answers = together(orders._recording, [partial(orders.accept, each) for each in given])
        ends = [each.result(PATIENCE_S) for each in answers]
    assert [each.replayed for each in ends] == [False] * 3
    assert {history.get_transfer(each.transfer_id, seen_by=None).status for each in ends} == {Status.PENDING}
    assert count_transfers(engine) == 4 + 3


def test_an_eviction_is_kept_if_something_unforeseen_keeps_it_from_being_made_sure_of(
    engine: Engine, redis_url: str, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del redis_client
    with cache_at(redis_url, engine) as cache:
        eviction = cache.evict({7: 3})

        def broken(*_: object) -> None:
            raise TypeError("told to")

        monkeypatch.setattr(cache, "_still_knows", broken)
        with pytest.raises(TypeError):
            cache.evict_again(eviction)
    assert kept(engine) == {7: 3}
