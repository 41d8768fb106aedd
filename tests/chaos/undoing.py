"""What is lost, doubled or wrong among what was given back, planned and called off."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from tests.chaos.calls import Call, Job
from tests.chaos.report import Report

# By the id of a transfer: how it stands in the end.
Jobs = Mapping[int, Job | None]
_ORDERED = frozenset({"Transfer", "EnqueueTransfer", "Plan"})


def check_reversals(
    calls: Sequence[Call], jobs: Jobs, originals: Mapping[int, tuple[int, int]], report: Report
) -> None:
    """What was given back of a transfer is what clients were told of, and no more than it; noes are for a reason.

    Args:
        calls: all orders, those of each client in his order. Nobody else gives back what a client has ordered.
        jobs: what became of them.
        originals: of what was given back, as the books have it, its amount and how much of it was, in cents.
        report: of the run.
    """
    ordered = {call.transfer_id: call for call in calls if call.method in _ORDERED}
    given: Counter[int] = Counter()
    for call in calls:
        if call.method != "Reverse":
            continue
        if call.refusal:
            _check_refusal(call, ordered[call.of], given[call.of], report)
            continue
        job = jobs.get(call.transfer_id)
        if job is None or job.status != "posted":
            continue  # which replay() tells
        given[call.of] += job.amount
        if call.amount not in {0, job.amount}:
            report.wrong.append(f"{call} was to give back {call.amount} of {call.of}, and gave {job.amount}")
    for original in given.keys() | originals.keys():
        amount, reversed_ = originals.get(original, (0, 0))
        if reversed_ != given[original]:
            report.wrong.append(f"of {original} {reversed_} was given back, and clients were told of {given[original]}")
        if reversed_ > amount:
            report.doubled.append(f"of {original}, which moved {amount}, {reversed_} was given back")


def _check_refusal(call: Call, original: Call, given: int, report: Report) -> None:
    """Say what a no cannot have been for; ``given``: what had been given back by then."""
    if call.refusal == "not_reversible" and original.method == "Transfer":
        report.wrong.append(f"{call} was told {call.refusal} of {original}, which was posted")
    if call.refusal == "reversal_exceeds" and given + max(call.amount, 1) <= original.amount:
        report.wrong.append(f"{call} was told {call.refusal}, and {original.amount - given} was left of {original}")


def check_plans(calls: Sequence[Call], jobs: Jobs, report: Report) -> None:
    """Nothing was tried before the instant that it was planned for."""
    for call in calls:
        job = jobs.get(call.transfer_id)
        if call.not_before is None or job is None or job.status not in {"posted", "rejected"}:
            continue
        if datetime.fromisoformat(job.ended_at) < call.not_before:
            report.wrong.append(f"{call} was planned for {call.not_before.isoformat()}, and is {job}")


def check_cancels(calls: Sequence[Call], jobs: Jobs, report: Report) -> None:
    """What was called off stays so, and nothing else is canceled.

    Who was told that it was too late is right, but for one who has asked several times: then the one before may have
    been about to be in time.
    """
    may_be = set()
    for call in calls:
        if call.method != "Cancel":
            continue
        job = jobs.get(call.of)
        if call.transfer_id and (job is None or job.status != "canceled"):
            report.wrong.append(f"{call} has called off {call.of}, and it is {job}")
        if call.transfer_id or len(call.tries) > 1:
            may_be.add(call.of)
    for transfer, job in jobs.items():
        if job is not None and job.status == "canceled" and transfer not in may_be:
            report.wrong.append(f"transfer {transfer} is canceled, and nobody was told so")
