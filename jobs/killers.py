"""Transfers that kill whoever tries them: they are tried alone first, and then no more."""

from collections.abc import Mapping

import structlog

from models.ledger.attempts import Spent
from models.ledger.transfer import Kind, Status
from observe import logs, metrics

# From this many dead workers on a transfer is tried alone, so that it can take no neighbour with it.
ALONE_AFTER_LOST = 2
# This many are no accident: the transfer kills its workers.
MAX_LOST = 5

_log = structlog.get_logger("relay")


def note_dead(dead: Mapping[int, Spent]) -> None:
    """Count and log those that have just become dead letters for it."""
    metrics.transfers[Kind.TRANSFER, Status.FAILED].inc(len(dead))
    for transfer_id, spent in dead.items():
        trace_id = logs.trace_id_of(spent.trace)
        _log.error("transfer kills its workers", job_id=str(transfer_id), trace_id=trace_id)
