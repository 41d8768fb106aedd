"""A settler lets go of what is planned for later, whatever is wrong around it, and leaves alone what was called off."""

import pytest
from sqlalchemy import Engine

from jobs.settler import Settler, settle_alone
from models.ledger import attempts, cancellation
from models.ledger.posting import Outcome
from models.ledger.transfer import Status
from observe import metrics
from tests.books import check_books
from tests.jobs.backlog import accept, assert_posted_once, fault_on, locked, plan, row_of, rows_of
from tests.models.ledger.ordering import come

HOUR_S = 3_600.0


@pytest.fixture
def early(books: Engine) -> list[int]:
    """Transfers of wallet 3 that are planned for later."""
    return plan(books, 5, seconds=HOUR_S, first_id=5_000, source=3)


def assert_untouched(books: Engine, ids: list[int]) -> None:
    assert {(row.status, row.attempts, row.last_error) for row in rows_of(books, ids).values()} == {
        ("pending", 0, None)
    }
    assert all(row.next_attempt_at == row.not_before for row in rows_of(books, ids).values())
    check_books(books)


def test_what_is_early_is_told_apart_and_others_are_posted(books: Engine, settler: Settler, early: list[int]) -> None:
    ids = accept(books, 5)
    settled = settler.settle([*early, *ids, 999])
    assert settled.outcomes.keys() == set(ids)
    assert settled.early == {each: row.not_before for each, row in rows_of(books, early).items()}
    assert (settled.undone, settled.spent, settled.unknown, settled.fault) == ([], {}, [999], None)
    assert_untouched(books, early)


def test_it_spends_no_attempt_beside_a_locked_wallet_and_a_poison(
    books: Engine, settler: Settler, early: list[int]
) -> None:
    blocked, (poison,) = accept(books, 3, source=3), accept(books, 1, first_id=3_000)
    with locked(books, "SELECT FROM wallets WHERE id = 3 FOR UPDATE"), fault_on(books, [poison, *early]):
        settled = settler.settle([*early, *blocked, poison])
    assert settled.spent.keys() == {*blocked, poison}
    assert settled.early.keys() == set(early)
    assert_untouched(books, early)


def test_one_whose_own_row_is_locked_is_let_go_of_as_well(books: Engine, settler: Settler, early: list[int]) -> None:
    with locked(books, f"SELECT FROM transfers WHERE id = {early[0]} FOR UPDATE"):
        settled = settler.settle([*early, *accept(books, 1)])
    assert settled.early.keys() == set(early)
    assert settled.spent == {}
    assert_untouched(books, early)


def test_whoever_works_on_it_alone_is_told_that_it_is_pending(
    books: Engine, settler: Settler, early: list[int]
) -> None:
    assert settle_alone(settler, early[0], generation=None) is Status.PENDING
    assert_untouched(books, early)
    come(books, early[0])
    assert settle_alone(settler, early[0], generation=None) is Status.POSTED


def test_one_that_comes_meanwhile_is_handed_back_to_be_tried(
    books: Engine, settler: Settler, early: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_early = attempts.find_early

    def come_and_find(engine: Engine, ids: list[int]) -> object:
        come(books, *early)
        return find_early(engine, ids)

    monkeypatch.setattr(attempts, "find_early", come_and_find)
    settled = settler.settle(early)
    assert (settled.undone, settled.early) == (early, {})
    assert settler.settle(early).outcomes.keys() == set(early)


def test_what_fails_when_it_is_due_is_tried_again_like_any_other(
    books: Engine, settler: Settler, early: list[int]
) -> None:
    come(books, *early)
    with fault_on(books, early):
        settled = settler.settle(early)
    assert settled.spent.keys() == set(early)
    row = row_of(books, early[0])
    assert (row.attempts, row.next_attempt_at > row.not_before) == (1, True)
    assert settler.settle(early).outcomes.keys() == set(early)


def test_what_was_called_off_is_left_alone_and_counts_as_ended(books: Engine, settler: Settler) -> None:
    canceled, *ids = accept(books, 4)
    assert cancellation.cancel(books, canceled)
    settled = settler.settle([canceled, *ids])
    assert settled.outcomes == {canceled: Outcome(Status.CANCELED), **dict.fromkeys(ids, Outcome(Status.POSTED))}
    assert settle_alone(settler, canceled, generation=None) is Status.CANCELED
    settler.reopen({canceled: 1})
    assert row_of(books, canceled).status == "canceled"
    assert_posted_once(books, ids)


def test_it_is_as_late_as_it_is_after_its_instant(books: Engine, settler: Settler, early: list[int]) -> None:
    """And not as old as its id."""
    before = settled_within_seconds(HOUR_S)
    come(books, *early)
    settler.settle(early)
    assert settled_within_seconds(HOUR_S) == before + len(early)


def settled_within_seconds(most_s: float) -> float:
    """How many transfers were posted within this time, as the histogram has it."""
    (family,) = metrics.transfer_settle_seconds.collect()
    bounds = {each.labels["le"]: each.value for each in family.samples if each.name.endswith("_bucket")}
    return float(bounds[str(most_s)])
