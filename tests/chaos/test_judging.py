"""What a run of chaos looks for is found when it is there, whichever face has told it."""

from typing import Any

import pytest

from tests.chaos import judging
from tests.chaos.announced import DEAD, EVENTS, Announced
from tests.chaos.calls import Answer, Call, Followed, Job, Page, Read
from tests.chaos.hooked import check_hooked
from tests.chaos.report import Report

POSTED, REJECTED, CANCELED = Job("posted"), Job("rejected", reason="balance_insufficient"), Job("canceled")
# User 1 had 100 cents and has paid 30 to user 2 by transfer 7.
KNOWN = {(1, 6): 100, (1, 7): 70, (2, 7): 30}
PAGE = Page(70, ((7, 70), (6, 100)))


def paid(*answers: Answer, method: str = "Transfer", followed: Followed | None = None) -> Call:
    """User 1's order to pay these 30 cents."""
    return Call(method, 1, 30, 2, "key", answers=list(answers), followed=followed)


def found(report: Report) -> tuple[int, int, int]:
    return len(report.lost), len(report.doubled), len(report.wrong)


@pytest.mark.parametrize(
    ("call", "job", "is_found"),
    [
        (paid(Answer("REST", 7, 70)), POSTED, (0, 0, 0)),
        (paid(Answer("REST", 7, 70), Answer("gRPC", 7, 70)), POSTED, (0, 0, 0)),
        (paid(Answer("gRPC", 7, 70)), None, (1, 0, 0)),
        (paid(Answer("gRPC", 7, 70)), REJECTED, (1, 0, 0)),
        (paid(Answer("gRPC", 7), method="EnqueueTransfer"), REJECTED, (0, 0, 0)),
        (paid(Answer("gRPC", 7), method="EnqueueTransfer"), Job("rejected", reason="wallet_not_found"), (0, 0, 1)),
        (paid(Answer("gRPC", 7), method="EnqueueTransfer"), CANCELED, (0, 0, 0)),
        (paid(Answer("REST", 7), method="Plan"), CANCELED, (0, 0, 0)),
        (paid(Answer("REST", 7), method="Plan"), REJECTED, (0, 0, 0)),
        (paid(Answer("REST", 7), method="Plan"), Job("pending"), (1, 0, 0)),
        (paid(Answer("REST", 7, 70)), CANCELED, (1, 0, 0)),
        (paid(Answer("REST", 7, 70), method="Reverse"), REJECTED, (1, 0, 0)),
        (paid(Answer("REST", 7, 70), Answer("REST", 8, 40), method="Reverse"), POSTED, (0, 1, 0)),
        (paid(Answer("gRPC", 7), method="EnqueueTransfer"), Job("pending"), (1, 0, 0)),
        (paid(Answer("gRPC", 7), method="EnqueueTransfer"), Job("failed", "why"), (1, 0, 0)),
        (paid(Answer("REST", 7, 70), Answer("gRPC", 8, 40)), POSTED, (0, 1, 0)),
        (paid(Answer("REST", 7, 70), Answer("gRPC", 7, 40)), POSTED, (0, 1, 0)),
        (paid(Answer("REST", 7), followed=Followed("gRPC", POSTED)), POSTED, (0, 0, 0)),
        (paid(Answer("REST", 7), followed=Followed("gRPC", REJECTED)), POSTED, (0, 0, 1)),
        (paid(Answer("REST", 7), followed=Followed("REST", None)), POSTED, (0, 0, 1)),
    ],
)
def test_an_order_is_what_its_client_was_told(call: Call, job: Job | None, is_found: tuple[int, int, int]) -> None:
    report = Report()
    judging.replay(call, job, {1: 100, 2: 0}, report)
    assert found(report) == is_found


@pytest.mark.parametrize(
    ("method", "destination", "balances"),
    [
        ("Deposit", None, {1: 130, 2: 0}),
        ("Withdraw", None, {1: 70, 2: 0}),
        ("Transfer", 2, {1: 70, 2: 30}),
        ("EnqueueTransfer", 2, {1: 70, 2: 30}),
        ("Plan", 2, {1: 70, 2: 30}),
        ("Reverse", 2, {1: 70, 2: 30}),
    ],
)
def test_each_kind_moves_what_it_moves(method: str, destination: int | None, balances: dict[int, int]) -> None:
    replayed, report = {1: 100, 2: 0}, Report()
    judging.replay(Call(method, 1, 30, destination, "key", answers=[Answer("gRPC", 7)]), POSTED, replayed, report)
    assert (replayed, report.is_clean) == (balances, True)


def test_all_that_is_left_is_as_much_as_the_books_say() -> None:
    replayed, report = {1: 100, 2: 0}, Report()
    judging.replay(
        Call("Reverse", 1, 0, 2, "key", answers=[Answer("REST", 7)]), Job("posted", amount=12), replayed, report
    )
    assert (replayed, report.is_clean) == ({1: 88, 2: 12}, True)


def test_what_was_called_off_has_moved_nothing() -> None:
    replayed, report = {1: 100, 2: 0}, Report()
    judging.replay(paid(Answer("REST", 7), method="Plan"), CANCELED, replayed, report)
    assert (replayed, report.is_clean) == ({1: 100, 2: 0}, True)


@pytest.mark.parametrize(
    ("rest", "grpc", "wrong"),
    [((70, PAGE), (70, PAGE), 0), ((70, PAGE), (71, PAGE), 2), ((70, PAGE), (70, Page(70, ())), 1)],
)
def test_both_faces_say_what_came_of_it_all(rest: tuple[int, Page], grpc: tuple[int, Page], wrong: int) -> None:
    report = Report()
    judging.check_wallets({"REST": {1: rest}, "gRPC": {1: grpc}}, {1: 70}, report)
    assert found(report) == (0, 0, wrong)


@pytest.mark.parametrize(
    ("answer", "transfers", "doubled"),
    [
        (Answer("gRPC", 7), 1, 0),
        (Answer("gRPC", 7), 2, 1),
        (Answer("gRPC"), 0, 0),
        (Answer("gRPC"), 1, 1),
    ],
)
def test_a_key_has_one_transfer_or_none(answer: Answer, transfers: int, doubled: int) -> None:
    report = Report()
    judging.check_keys({(1, "key"): transfers}, [paid(answer)], report)
    assert found(report) == (0, doubled, 0)


@pytest.mark.parametrize(("balance", "wrong"), [(70, 0), (None, 0), (100, 1)])
def test_a_balance_that_came_with_an_answer_is_the_one_just_after_it(balance: int | None, wrong: int) -> None:
    report = Report()
    judging.check_balances(KNOWN, [paid(Answer("gRPC", 7, balance))], report)
    assert found(report) == (0, 0, wrong)


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        (PAGE, 0),
        (Page(100, ()), 0),
        (Page(71, ()), 1),
        (Page(30, ()), 1),
        (Page(70, ((6, 100),)), 1),
        (Page(70, ((7, 70), (6, 101))), 1),
    ],
)
def test_what_was_read_is_something_that_the_books_have_had(page: Page, wrong: int) -> None:
    report = Report()
    judging.check_reads(KNOWN, [Read("gRPC", 1, page)], report)
    assert found(report) == (0, 0, wrong)


def event(number: int, word: str, transfer: int = 7) -> dict[str, Any]:
    status = "pending" if word == "requeued" else word
    data = {"job_id": str(transfer), "status": status, "source_user_id": "1", "destination_user_id": "2"}
    return {"event_id": str(number), "type": f"transfer.{word}", "data": data}


@pytest.mark.parametrize(
    ("words", "status", "is_found"),
    [
        (["posted"], "posted", (0, 0, 0)),
        (["rejected"], "rejected", (0, 0, 0)),
        (["failed"], "failed", (0, 0, 0)),
        (["canceled"], "canceled", (0, 0, 0)),
        (["failed", "requeued", "canceled"], "canceled", (0, 0, 0)),
        ([], "canceled", (1, 0, 0)),
        (["canceled", "canceled"], "canceled", (0, 1, 0)),
        (["canceled", "posted"], "posted", (0, 1, 0)),
        (["posted", "canceled"], "canceled", (0, 1, 1)),
        (["failed", "requeued", "failed", "requeued", "posted"], "posted", (0, 0, 0)),
        ([], "posted", (1, 0, 1)),
        (["failed", "requeued"], "posted", (1, 0, 1)),
        (["rejected"], "posted", (1, 0, 1)),
        (["posted", "posted"], "posted", (0, 1, 1)),
        (["failed", "posted"], "posted", (0, 1, 0)),
        (["requeued", "posted"], "posted", (0, 1, 0)),
    ],
)
def test_the_feed_tells_each_end_once(words: list[str], status: str, is_found: tuple[int, int, int]) -> None:
    report = Report()
    events = [event(number, word) for number, word in enumerate(words, 1)]
    postings = {1: [7], 2: [7]} if status == "posted" else {}
    judging.check_feed(events, {"7": status}, postings, report)
    lost, doubled, wrong = found(report)
    assert (lost, doubled, min(wrong, 1)) == is_found


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([event(1, "posted", 6), event(2, "posted", 7)], 0),
        ([event(1, "posted", 6), event(3, "posted", 7)], 1),
        ([event(2, "posted", 6), event(1, "posted", 7)], 1),
        ([event(1, "posted", 7), event(2, "posted", 6)], 2),  # of both wallets
        ([event(1, "posted", 6), event(2, "posted", 7), event(3, "rejected", 8)], 1),
    ],
)
def test_the_feed_has_no_gap_and_the_order_of_each_wallet(events: list[dict[str, Any]], wrong: int) -> None:
    report = Report()
    judging.check_feed(events, {"6": "posted", "7": "posted"}, {1: [6, 7], 2: [6, 7]}, report)
    assert found(report) == (0, 0, wrong)


@pytest.mark.parametrize(
    ("events", "dead", "is_found"),
    [
        ((1, 2), (2,), (0, 0, 0)),
        ((1,), (2,), (1, 0, 0)),
        ((1, 2), (), (1, 0, 0)),
        ((1, 2, 3), (2,), (0, 0, 1)),
        ((1, 2), (1, 2), (0, 0, 1)),
    ],
)
def test_topics_have_all_of_the_feed(
    events: tuple[int, ...], dead: tuple[int, ...], is_found: tuple[int, int, int]
) -> None:
    feed = {1: event(1, "posted", 6), 2: event(2, "failed"), 3: event(3, "posted")}
    announced, report = Announced(), Report()
    announced.heard |= {EVENTS: {n: feed[n] for n in events}, DEAD: {n: feed[n] for n in dead}}
    judging.check_announced([feed[1], feed[2]], announced, report)
    assert found(report) == is_found


def test_what_the_topics_had_when_they_were_lost_may_be_unheard_and_nothing_else() -> None:
    announced, report = Announced(), Report()
    announced.lose(read_upto=1, told_upto=2)
    judging.check_announced([event(1, "posted", 6), event(2, "posted")], announced, report)
    assert (found(report), report.unheard) == ((1, 0, 0), 2)


def test_what_has_not_come_by_webhook_or_otherwise_is_found() -> None:
    events = [{"event_id": str(number), "type": "transfer.posted"} for number in (1, 2, 3)]
    report = Report()
    check_hooked(events, dict(enumerate(events, 1)), report)
    assert found(report) == (0, 0, 0)
    check_hooked(events, {1: events[0], 3: {**events[2], "type": "transfer.failed"}, 4: events[2]}, report)
    assert found(report) == (1, 0, 2)
