"""Whether what was refused for a freeze was frozen, and what was frozen has refused."""

import math
from collections.abc import Collection, Mapping, Sequence

from tests.chaos.calls import Bulk, Call
from tests.chaos.freezer import Freeze
from tests.chaos.report import Report
from tests.chaos.undoing import Jobs

FROZEN = "wallet_frozen"
# A bulk, and what is planned, are accepted all the same.
_AT_ONCE = frozenset({"Deposit", "Withdraw", "Transfer", "EnqueueTransfer", "Reverse"})


def check_freezes(
    calls: Sequence[Call], jobs: Jobs, bulks: Mapping[int, Bulk | None], freezes: Sequence[Freeze], report: Report
) -> None:
    """Nothing went through while a wallet was surely frozen, and nothing was refused for it while none was.

    Args:
        calls: all orders.
        jobs: what became of those that are one transfer.
        bulks: what became of the others.
        freezes: all that there were.
        report: of the run.
    """
    for call in calls:
        if call.refusal == FROZEN:
            report.frozen += 1
            if not _may_be_frozen(freezes, call, call.credited, until=call.ended):
                report.wrong.append(f"{call} was told {FROZEN}, and no wallet was")
        elif call.transfer_id and call.method in _AT_ONCE and (freeze := _find_passed(freezes, call)):
            report.wrong.append(f"{call} went through, from {call.begun} to {call.ended}, and there was {freeze}")
        job, bulk = jobs.get(call.transfer_id), bulks.get(call.transfer_id)
        rejected = [] if job is None or job.reason != FROZEN or call.method == "Cancel" else [call.credited]
        rejected += [{each.item.destination} for each in (bulk.items if bulk else ()) if each.reason == FROZEN]
        report.frozen += len(rejected)
        report.wrong += [
            f"{call} was rejected as {FROZEN}, and neither {call.user} nor {credited} was"
            for credited in rejected
            if not _may_be_frozen(freezes, call, credited, until=math.inf)
        ]


def _may_be_frozen(freezes: Sequence[Freeze], call: Call, credited: Collection[int], *, until: float) -> bool:
    return any(
        freeze.asked <= until and freeze.lifted >= call.begun and _concerns(freeze, call.debited, credited)
        for freeze in freezes
    )


def _find_passed(freezes: Sequence[Freeze], call: Call) -> Freeze | None:
    """Find what should have held up all of a call, from before it was sent until after it was answered."""
    return next(
        (
            freeze
            for freeze in freezes
            if freeze.frozen <= call.begun
            and call.ended <= freeze.lifting
            and _concerns(freeze, call.debited, call.credited)
        ),
        None,
    )


def _concerns(freeze: Freeze, debited: int | None, credited: Collection[int]) -> bool:
    return (freeze.debits and freeze.user == debited) or (freeze.credits and freeze.user in credited)
