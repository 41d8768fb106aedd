"""What is not right of a bulk is found."""

from collections.abc import Mapping

import pytest

from tests.chaos import bulks
from tests.chaos.calls import Answer, Bulk, Call, Item, SentItem
from tests.chaos.report import Report

ITEMS = Item(2, 30, "first"), Item(3, 10, "second")
NOTHING: Mapping[str, int] = {}
INSUFFICIENT, OTHER = "balance_insufficient", "bulk_rejected"


def sent(*answers: Answer, is_atomic: bool = False) -> Call:
    """User 1's order to pay 30 cents to user 2, and 10 to user 3."""
    answered = list(answers or [Answer("REST", 7)])
    return Call("Bulk", 1, 40, None, "key", items=ITEMS, is_atomic=is_atomic, answers=answered)


def became(*ends: tuple[str, str], items: tuple[Item, ...] = ITEMS, told: Mapping[str, int] = NOTHING) -> Bulk:
    """How the bulk stands, by the status and the reason of each of its items, and what it says of itself otherwise."""
    statuses = [status for status, _ in ends]
    counts = {name: statuses.count(name) for name in bulks.STATUSES} | {"count": 2, "amount": 40, **told}
    return Bulk(counts, tuple(SentItem(item, *end) for item, end in zip(items, ends, strict=True)))


POSTED = "posted", ""


def found(report: Report) -> tuple[int, int, int]:
    return len(report.lost), len(report.doubled), len(report.wrong)


@pytest.mark.parametrize(
    ("ends", "is_atomic", "is_found"),
    [
        ((POSTED, POSTED), False, (0, 0, 0)),
        ((POSTED, POSTED), True, (0, 0, 0)),
        ((POSTED, ("rejected", INSUFFICIENT)), False, (0, 0, 0)),
        ((POSTED, ("rejected", INSUFFICIENT)), True, (0, 0, 1)),
        ((("rejected", OTHER), ("rejected", INSUFFICIENT)), True, (0, 0, 0)),
        ((("rejected", OTHER), ("rejected", INSUFFICIENT)), False, (0, 0, 1)),
        ((("rejected", OTHER), ("rejected", OTHER)), True, (0, 0, 1)),  # nobody is to blame
        ((("rejected", INSUFFICIENT), ("rejected", INSUFFICIENT)), True, (0, 0, 1)),
        ((("rejected", INSUFFICIENT), ("rejected", INSUFFICIENT)), False, (0, 0, 0)),
        ((POSTED, ("rejected", "wallet_not_found")), False, (0, 0, 1)),
        ((POSTED, ("pending", "")), False, (1, 0, 0)),
        ((POSTED, ("failed", "worker_lost")), False, (1, 0, 0)),
    ],
)
def test_each_item_ends_and_atomic_ones_together(
    ends: tuple[tuple[str, str], ...], is_atomic: bool, is_found: tuple[int, int, int]
) -> None:
    report = Report()
    bulks.replay_bulk(sent(is_atomic=is_atomic), became(*ends), {1: 100, 2: 0, 3: 0}, report)
    assert found(report) == is_found


def test_what_was_posted_of_it_has_moved() -> None:
    balances, report = {1: 100, 2: 0, 3: 0}, Report()
    bulks.replay_bulk(sent(), became(POSTED, ("rejected", INSUFFICIENT)), balances, report)
    assert (balances, report.items) == ({1: 70, 2: 30, 3: 0}, {"posted": 1, "rejected": 1})


@pytest.mark.parametrize(
    "told", [{"posted": 1}, {"posted": 1, "pending": 1}, {"count": 3}, {"amount": 41}, {"canceled": 1}]
)
def test_a_bulk_counts_its_transfers(told: dict[str, int]) -> None:
    report = Report()
    bulks.replay_bulk(sent(), became(POSTED, POSTED, told=told), {1: 100, 2: 0, 3: 0}, report)
    assert found(report) == (0, 0, 1)


@pytest.mark.parametrize(
    ("items", "is_found"),
    [
        ((ITEMS[1], ITEMS[0]), (0, 0, 0)),
        ((ITEMS[0], ITEMS[0]), (1, 1, 0)),
        ((ITEMS[0], Item(3, 11, "second")), (1, 1, 0)),
        ((ITEMS[0], Item(2, 10, "second")), (1, 1, 0)),
        ((ITEMS[0], Item(3, 10, "third")), (1, 1, 0)),
    ],
)
def test_what_was_sent_is_there_and_nothing_else(items: tuple[Item, ...], is_found: tuple[int, int, int]) -> None:
    report = Report()
    bulks.replay_bulk(sent(), became(POSTED, POSTED, items=items), {1: 100, 2: 0, 3: 0}, report)
    assert found(report) == is_found


def test_a_bulk_that_is_gone_is_lost() -> None:
    report = Report()
    bulks.replay_bulk(sent(), None, {}, report)
    assert found(report) == (1, 0, 0)


def test_a_key_stands_for_one_bulk() -> None:
    report = Report()
    again = sent(Answer("REST", 7), Answer("REST", 8))
    bulks.replay_bulk(again, became(POSTED, POSTED), {1: 100, 2: 0, 3: 0}, report)
    assert found(report) == (0, 1, 0)


@pytest.mark.parametrize(("known", "doubled"), [([7], 0), ([7, 8], 1)])
def test_there_is_no_bulk_of_which_nobody_was_told(known: list[int], doubled: int) -> None:
    report = Report()
    bulks.check_bulks(known, [sent()], report)
    assert found(report) == (0, doubled, 0)
