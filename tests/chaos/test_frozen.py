"""What a freeze was not right about is found."""

import pytest

from tests.chaos import frozen
from tests.chaos.calls import Answer, Bulk, Call, Item, Job, SentItem
from tests.chaos.freezer import Freeze
from tests.chaos.report import Report

# Asked for at 1, true at 2, until it is lifted at 8, of which the answer comes at 9.
TIMES = {"asked": 1.0, "frozen": 2.0, "lifting": 8.0, "lifted": 9.0}
PAYER_S = Freeze(1, debits=True, credits=False, **TIMES)
PAYEE_S = Freeze(2, debits=False, credits=True, **TIMES)
OTHER_SIDES = [Freeze(1, debits=False, credits=True, **TIMES), Freeze(2, debits=True, credits=False, **TIMES)]
NO, YES = Answer("REST", refusal="wallet_frozen"), Answer("REST", 7)
REJECTED = Job("rejected", reason="wallet_frozen")


def paid(answer: Answer, begun: float, ended: float, method: str = "Transfer") -> Call:
    """User 1's order to pay user 2."""
    return Call(method, 1, 30, 2, "key", answers=[answer], begun=begun, ended=ended)


@pytest.mark.parametrize(
    ("freezes", "call", "wrong"),
    [
        ([PAYER_S], paid(NO, 3, 4), 0),
        ([PAYEE_S], paid(NO, 3, 4), 0),
        ([PAYER_S], paid(NO, 0, 1), 0),
        ([PAYER_S], paid(NO, 9, 10), 0),
        ([PAYER_S], paid(NO, 0, 0.5), 1),
        ([PAYER_S], paid(NO, 9.5, 10), 1),
        (OTHER_SIDES, paid(NO, 3, 4), 1),
        ([], paid(NO, 3, 4), 1),
        ([PAYER_S], paid(YES, 3, 4), 1),
        ([PAYEE_S], paid(YES, 3, 4), 1),
        ([PAYEE_S], paid(YES, 3, 4, "EnqueueTransfer"), 1),
        ([PAYEE_S], paid(YES, 3, 4, "Reverse"), 1),
        ([PAYER_S], paid(YES, 3, 4, "Plan"), 0),  # it is judged when it is tried
        ([PAYER_S], paid(YES, 1.5, 4), 0),  # it may have been first
        ([PAYER_S], paid(YES, 3, 8.5), 0),
        (OTHER_SIDES, paid(YES, 3, 4), 0),
        ([PAYER_S], Call("Deposit", 1, 30, None, "key", answers=[YES], begun=3, ended=4), 0),
        ([PAYEE_S], Call("Deposit", 2, 30, None, "key", answers=[YES], begun=3, ended=4), 1),
        ([PAYER_S], Call("Withdraw", 1, 30, None, "key", answers=[YES], begun=3, ended=4), 1),
    ],
)
def test_what_is_refused_was_frozen_and_what_is_frozen_refuses(freezes: list[Freeze], call: Call, wrong: int) -> None:
    report = Report()
    frozen.check_freezes([call], {7: Job("posted")}, {}, freezes, report)
    assert len(report.wrong) == wrong
    assert report.frozen == (call.refusal == "wallet_frozen")


@pytest.mark.parametrize(
    ("freezes", "begun", "wrong"), [([PAYER_S], 0, 0), ([PAYEE_S], 8.5, 0), ([PAYER_S], 9.5, 1), (OTHER_SIDES, 0, 1)]
)
def test_what_is_rejected_later_was_frozen_since(freezes: list[Freeze], begun: float, wrong: int) -> None:
    report = Report()
    frozen.check_freezes([paid(YES, begun, begun, "Plan")], {7: REJECTED}, {}, freezes, report)
    assert (len(report.wrong), report.frozen) == (wrong, 1)


@pytest.mark.parametrize(("freezes", "wrong"), [([PAYER_S], 0), ([PAYEE_S], 1), ([], 2)])
def test_so_was_what_is_rejected_of_a_bulk(freezes: list[Freeze], wrong: int) -> None:
    report = Report()
    items = Item(2, 30, "first"), Item(3, 10, "second")
    call = Call("Bulk", 1, 40, None, "key", items=items, answers=[YES], begun=0, ended=0)
    bulk = Bulk({}, tuple(SentItem(item, "rejected", "wallet_frozen") for item in items))
    frozen.check_freezes([call], {}, {7: bulk}, freezes, report)
    assert (len(report.wrong), report.frozen) == (wrong, 2)
