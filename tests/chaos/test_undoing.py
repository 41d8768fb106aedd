"""What is not right of reversals, plans and cancellations is found."""

from datetime import UTC, datetime

import pytest

from tests.chaos import undoing
from tests.chaos.calls import Answer, Call, Job
from tests.chaos.report import Report

# User 1 has paid 30 cents to user 2 by transfer 7.
PAID = Call("Transfer", 1, 30, 2, "paid", answers=[Answer("REST", 7, 70)])
SENT = Call("EnqueueTransfer", 1, 30, 2, "sent", answers=[Answer("REST", 7)])
REFUSED, EXCEEDS = Answer("REST", refusal="not_reversible"), Answer("REST", refusal="reversal_exceeds")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def found(report: Report) -> tuple[int, int, int]:
    return len(report.lost), len(report.doubled), len(report.wrong)


def given_back(amount: int, answer: Answer) -> Call:
    """User 2's order to give so much of it back; 0: the rest."""
    return Call("Reverse", 2, amount, 1, f"back {answer.transfer_id}", of=7, answers=[answer])


@pytest.mark.parametrize(
    ("reversals", "moved", "reversed_amount", "is_found"),
    [
        ([], {}, 0, (0, 0, 0)),
        ([(10, 8)], {8: 10}, 10, (0, 0, 0)),
        ([(10, 8), (0, 9)], {8: 10, 9: 20}, 30, (0, 0, 0)),
        ([(10, 8)], {8: 10}, 0, (0, 0, 1)),  # moved, and not counted
        ([(10, 8)], {8: 10}, 20, (0, 0, 1)),  # counted, and nobody was told
        ([], {}, 10, (0, 0, 1)),
        ([(10, 8)], {8: 11}, 11, (0, 0, 1)),  # more than was asked for
        ([(20, 8), (20, 9)], {8: 20, 9: 20}, 40, (0, 1, 0)),
    ],
)
def test_what_was_given_back_is_what_was_told_and_within_the_original(
    reversals: list[tuple[int, int]], moved: dict[int, int], reversed_amount: int, is_found: tuple[int, int, int]
) -> None:
    report = Report()
    calls = [PAID, *(given_back(amount, Answer("REST", number)) for amount, number in reversals)]
    jobs = {number: Job("posted", amount=amount) for number, amount in moved.items()}
    originals = {7: (30, reversed_amount)} if reversed_amount else {}
    undoing.check_reversals(calls, jobs, originals, report)
    assert found(report) == is_found


@pytest.mark.parametrize(
    ("original", "amount", "answer", "before", "wrong"),
    [
        (PAID, 10, REFUSED, 0, 1),
        (SENT, 10, REFUSED, 0, 0),  # it may have been pending then
        (PAID, 30, EXCEEDS, 0, 1),
        (PAID, 30, EXCEEDS, 1, 0),
        (PAID, 0, EXCEEDS, 29, 1),
        (PAID, 0, EXCEEDS, 30, 0),
        (PAID, 30, Answer("REST", refusal="balance_insufficient"), 0, 0),
    ],
)
def test_a_reversal_is_refused_for_a_reason(
    original: Call, amount: int, answer: Answer, before: int, wrong: int
) -> None:
    report = Report()
    earlier = [given_back(before, Answer("REST", 8))] if before else []
    books = {7: (30, before)} if before else {}
    calls = [original, *earlier, given_back(amount, answer)]
    undoing.check_reversals(calls, {8: Job("posted", amount=before)}, books, report)
    assert found(report) == (0, 0, wrong)


@pytest.mark.parametrize(
    ("status", "ended_at", "wrong"),
    [
        ("posted", "2026-11-23T12:00:00.000000Z", 0),
        ("posted", "2026-11-23T11:59:59.999999Z", 1),
        ("rejected", "2026-11-23T11:59:59.999999Z", 1),
        ("canceled", "2026-11-23T11:59:59.999999Z", 0),
    ],
)
def test_nothing_is_tried_before_its_time(status: str, ended_at: str, wrong: int) -> None:
    report = Report()
    call = Call("Plan", 1, 30, 2, "plan", not_before=NOON, answers=[Answer("REST", 7)])
    undoing.check_plans([call], {7: Job(status, ended_at=ended_at)}, report)
    assert found(report) == (0, 0, wrong)


CALLED_OFF, TOO_LATE = Answer("REST", 7), Answer("REST", refusal="not_cancelable")


@pytest.mark.parametrize(
    ("answer", "tries", "status", "wrong"),
    [
        (CALLED_OFF, 1, "canceled", 0),
        (CALLED_OFF, 1, "posted", 1),
        (CALLED_OFF, 2, "rejected", 1),
        (CALLED_OFF, 2, None, 1),
        (TOO_LATE, 1, "posted", 0),
        (TOO_LATE, 1, "rejected", 0),
        (TOO_LATE, 1, "canceled", 1),
        (TOO_LATE, 2, "canceled", 0),
        (None, 0, "posted", 0),
        (None, 0, "canceled", 1),
    ],
)
def test_what_is_called_off_stays_so_and_nothing_else_is(
    answer: Answer | None, tries: int, status: str | None, wrong: int
) -> None:
    report = Report()
    call = Call("Cancel", 1, 30, 2, "off", of=7, answers=[answer] if answer else [], tries=["REST"] * tries)
    jobs = {7: None if status is None else Job(status)}
    undoing.check_cancels([SENT, *([call] if answer else [])], jobs, report)
    assert found(report) == (0, 0, wrong)
