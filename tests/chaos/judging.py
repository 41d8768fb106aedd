"""What is lost, doubled or wrong among what clients were told."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.chaos.announced import DEAD, EVENTS, Announced
from tests.chaos.calls import Call, Job, Page, Read
from tests.chaos.report import Report

# By wallet and transfer: the balance just after it, in cents.
Balances = Mapping[tuple[int, int], int]
# What a transfer of its own may be rejected for.
REASONS = frozenset({"balance_insufficient", "wallet_frozen"})
# Those that are accepted before they end.
_ACCEPTED = frozenset({"EnqueueTransfer", "Plan"})


def replay(call: Call, job: Job | None, balances: dict[int, int], report: Report) -> None:
    """Do in memory what a client was told that the service did, with what became of it."""
    check_answers(call, report)
    if call.followed and call.followed.job != job:
        report.wrong.append(f"{call} was seen to end, {call.followed}, and now is {job}")
    if job is None:
        report.lost.append(f"{call}: transfer {call.transfer_id} was accepted and is not there")
        return
    if job.status == "rejected" and call.method in _ACCEPTED:
        if job.reason not in REASONS:
            report.wrong.append(f"{call} was rejected for {job.reason}")
        return
    if job.status == "canceled" and call.method in _ACCEPTED:
        return
    if job.status != "posted":
        report.lost.append(f"{call}: transfer {call.transfer_id} is {job}")
        return
    # What gives back all that is left does not say how much it is.
    amount = call.amount or job.amount
    if call.method != "Deposit":
        balances[call.user] -= amount
    if call.method != "Withdraw":
        balances[call.destination or call.user] += amount


def check_answers(call: Call, report: Report) -> None:
    """Whoever gives an order again is told of the first one."""
    if len({(answer.transfer_id, answer.balance) for answer in call.answers}) > 1:
        report.doubled.append(f"{call} has several answers: {call.answers}")


def check_wallets(
    found: Mapping[str, Mapping[int, tuple[int, Page]]], balances: Mapping[int, int], report: Report
) -> None:
    """Each face is to say what came of all that was answered, and all are to say the same of a history."""
    for user, cents in balances.items():
        for name, wallets in found.items():
            balance, page = wallets[user]
            if not cents == balance == page.balance:
                beside = f"{balance}, beside its history {page.balance}"
                report.wrong.append(f"by {name} user {user} has {beside}, and was told of {cents}")
        if len({wallets[user] for wallets in found.values()}) > 1:
            report.wrong.append(f"the faces do not agree on user {user}: {[each[user] for each in found.values()]}")


def check_keys(found: Mapping[tuple[int, str], int], calls: Iterable[Call], report: Report) -> None:
    """No key has two transfers, and none has one whose client was told of a refusal.

    Args:
        found: how many transfers the books have of a user under a key.
        calls: all orders.
        report: of the run.
    """
    for call in calls:
        count = found.get((call.user, call.key), 0)
        if count > 1:
            report.doubled.append(f"{call}: {count} transfers")
        if count and not call.transfer_id:
            report.doubled.append(f"{call}: refused, and yet recorded")


def check_balances(known: Balances, calls: Iterable[Call], report: Report) -> None:
    """Whoever moved money was told the balance just after it, and no other."""
    for call in calls:
        for answer in call.answers:
            if answer.balance is not None and answer.balance != known.get((call.user, answer.transfer_id)):
                report.wrong.append(f"{call} was told {answer}, of which the books know nothing")


def check_reads(known: Balances, reads: Iterable[Read], report: Report) -> None:
    """A balance that was read is one that the wallet has had, and a history is of entries that there are."""
    had: dict[int, set[int]] = {}
    for (user, _), balance in known.items():
        had.setdefault(user, set()).add(balance)
    for read in reads:
        entries = read.page.entries
        is_known = all(known.get((read.user, transfer)) == balance for transfer, balance in entries)
        is_newest = not entries or entries[0][1] == read.page.balance
        if not (is_known and is_newest and read.page.balance in had[read.user]):
            report.wrong.append(f"{read}, of which the books know nothing")


def check_feed(
    events: Sequence[Mapping[str, Any]],
    statuses: Mapping[str, str],
    postings: Mapping[int, Sequence[int]],
    report: Report,
) -> None:
    """Who has followed the feed was told of each transfer's end once, in the order of every wallet, without a gap.

    Args:
        events: all of them, as they were told.
        statuses: how each transfer stands, by its id as REST spells it.
        postings: of each wallet its transfers, in the order in which they were posted.
        report: of the run.
    """
    ids = [int(event["event_id"]) for event in events]
    if ids != list(range(1, len(ids) + 1)):
        first = next(number for number, each in enumerate(ids, 1) if each != number)
        report.wrong.append(f"the feed has a gap, or a repetition: event {ids[first - 1]} was told as number {first}")
    lives: dict[str, list[str]] = defaultdict(list)
    told: dict[int, list[int]] = defaultdict(list)
    for event in events:
        data, word = event["data"], event["type"].removeprefix("transfer.")
        lives[data["job_id"]].append(word)
        if data["status"] != ("pending" if word == "requeued" else word):
            report.wrong.append(f"event {event['event_id']}, {word}, tells of a transfer that is {data['status']}")
        if word == "posted":
            for party in {data["source_user_id"], data["destination_user_id"]} - {None}:
                told[int(party)].append(int(data["job_id"]))
    for transfer, status in statuses.items():
        _check_life(transfer, lives.pop(transfer, []), status, report)
    report.wrong += [f"the feed tells of transfer {transfer}, which is not there" for transfer in lives]
    for wallet in told.keys() | postings.keys():
        if told.get(wallet, []) != list(postings.get(wallet, [])):
            report.wrong.append(f"the feed has another order of wallet {wallet} than its entries")


def _check_life(transfer: str, words: Sequence[str], status: str, report: Report) -> None:
    """A transfer ends once, unless it failed and was brought back."""
    told = " ".join(words)
    if not words or words[-1] != status:
        report.lost.append(f"transfer {transfer} is {status}, and the feed tells: {told or 'nothing'}")
    elif not re.fullmatch("(failed requeued )*(posted|rejected|failed|canceled)", told):
        report.doubled.append(f"the feed tells of transfer {transfer}: {told}")


def check_announced(events: Sequence[Mapping[str, Any]], announced: Announced, report: Report) -> None:
    """Kafka's topics had each event of the feed, as it stands there, and each dead letter once more."""
    feed = {int(event["event_id"]): event for event in events}
    failed = {number: event for number, event in feed.items() if event["type"] == "transfer.failed"}
    for topic, wanted in ((EVENTS, feed), (DEAD, failed)):
        heard = announced.heard[topic]
        report.unheard += len(wanted.keys() - heard.keys())
        report.lost += [
            f"event {number} is not on {topic}"
            for number in sorted(wanted.keys() - heard.keys())
            if not announced.may_be_unheard(number)
        ]
        report.wrong += [
            f"event {number} on {topic} is {heard[number]}, and in the feed {wanted.get(number)}"
            for number in sorted(heard)
            if heard[number] != wanted.get(number)
        ]
    report.wrong += [f"event {number} has another transfer's key" for number in announced.badly_keyed]
