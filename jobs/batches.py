"""What is told of a batch that a worker has tried, whatever carried it."""

import structlog

from jobs.settler import Settled
from models.ledger.posting import Outcome
from models.ledger.transfer import Status
from observe import logs, metrics

# How many jobs a log line names, of those that were handed back.
MAX_NAMED = 10

_log = structlog.get_logger("worker")


def report(settled: Settled, *, size: int, duration_s: float) -> None:
    """Count and log a batch, with a line for each transfer that is final now.

    Args:
        settled: what became of it.
        size: how many jobs it had.
        duration_s: seconds from taking it to booking it.
    """
    metrics.batch_size.observe(size)
    metrics.batch_seconds.observe(duration_s)
    logs.write_transfers(
        (transfer_id, outcome.status, outcome.reason, settled.traces.get(transfer_id))
        for transfer_id, outcome in settled.outcomes.items()
    )
    _log.info(
        "batch",
        posted=_count(settled.outcomes, Status.POSTED),
        rejected=_count(settled.outcomes, Status.REJECTED),
        spent=len(settled.spent),
        undone=len(settled.undone),
        undone_job_ids=[str(each) for each in settled.undone[:MAX_NAMED]],
        duration_ms=round(duration_s * 1000, 3),
    )


def _count(outcomes: dict[int, Outcome], status: Status) -> int:
    return sum(outcome.status is status for outcome in outcomes.values())
