"""What is lost, doubled or wrong of what was sent at once."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.chaos.calls import Bulk, Call
from tests.chaos.judging import REASONS, check_answers
from tests.chaos.report import Report

STATUSES = ("pending", "posted", "rejected", "failed", "canceled")
# Of an atomic bulk's transfers all have it but the one that is to blame.
BY_ANOTHER = "bulk_rejected"


def replay_bulk(call: Call, bulk: Bulk | None, balances: dict[int, int], report: Report) -> None:
    """Do in memory what became of a bulk, and hold what it says of itself against its transfers."""
    check_answers(call, report)
    if bulk is None:
        report.lost.append(f"{call}: bulk {call.transfer_id} was accepted and is not there")
        return
    sent, found = Counter(call.items), Counter(each.item for each in bulk.items)
    report.lost += [f"{call}: {item} was sent and is not there" for item in sent - found]
    report.doubled += [f"{call}: {item} is there and was not sent" for item in found - sent]
    statuses = Counter(each.status for each in bulk.items)
    wanted = {name: statuses[name] for name in STATUSES} | {"count": len(call.items), "amount": call.amount}
    if {name: bulk.told.get(name) for name in wanted} != wanted:
        report.wrong.append(f"{call} says {bulk.told}, and its transfers {wanted}")
    if statuses.keys() - {"posted", "rejected"}:
        report.lost.append(f"{call}: its transfers are {dict(statuses)}")
    _check_reasons(call, bulk, report)
    for item, status, _ in bulk.items:
        report.items[status] += 1
        if status == "posted":
            balances[call.user] -= item.amount
            balances[item.destination] += item.amount


def _check_reasons(call: Call, bulk: Bulk, report: Report) -> None:
    """Of an atomic bulk all is posted, or all is rejected for one of them; of others each for itself."""
    statuses = {each.status for each in bulk.items}
    reasons = [each.reason for each in bulk.items if each.status == "rejected"]
    own = [reason for reason in reasons if reason != BY_ANOTHER]
    if not REASONS.issuperset(own):
        report.wrong.append(f"{call}: rejected for {sorted(set(own))}")
    if not call.is_atomic:
        if len(own) < len(reasons):
            report.wrong.append(f"{call} is not atomic, and some of it was rejected for the rest")
    elif len(statuses) > 1:
        report.wrong.append(f"{call} is atomic, and its transfers are {sorted(statuses)}")
    elif reasons and len(own) != 1:
        report.wrong.append(f"{call} is atomic, and was rejected for {own}")


def check_bulks(known: Iterable[int], calls: Sequence[Call], report: Report) -> None:
    """The books have no bulk of which nobody was told."""
    told = {call.transfer_id for call in calls if call.method == "Bulk"}
    report.doubled += [f"bulk {each} is there, and nobody was told of it" for each in set(known) - told]
