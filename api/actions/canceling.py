"""Calling a transfer off: by whoever gave its order, or an administrator, as long as nobody has it in hand."""

import structlog

from api.calls.problems import ApiError
from api.services import Services
from models.errors import NotCancelable
from models.ledger import cancellation
from models.ledger.transfer import Status, Transfer
from observe import logs, metrics

_WHY = {
    Status.PENDING: "it has just become pending again",
    Status.POSTED: "the money has moved",
    Status.REJECTED: "it was refused before",
    Status.FAILED: "its attempts have run out, and only an administrator can have it tried again",
}

_log = structlog.get_logger("api")


def cancel(services: Services, transfer_id: int, *, by: int | None) -> Transfer:
    """Cancel a pending transfer, and return how it stands: canceled, by this call or an earlier one.

    Args:
        services: of the process.
        transfer_id: which.
        by: the user who asks; None: an administrator.

    Raises:
        TransferNotFound: there is none, or it is not theirs.
        ApiError: ``forbidden``: the payee may see it, and not cancel it.
        NotCancelable: it is being tried, or has ended otherwise.
        Unavailable: the database cannot be reached; to ask again does no harm.
    """
    transfer = services.history.get_transfer(transfer_id, seen_by=by)
    if by is not None and by != transfer.giver:
        raise ApiError("forbidden", "Only who pays may cancel a transfer.")
    if transfer.status is Status.PENDING:
        if cancellation.cancel(services.engine, transfer_id):
            metrics.transfers[transfer.kind, Status.CANCELED].inc()
            _log.info("transfer canceled", job_id=str(transfer_id), by="user" if by else "administrator")
            services.way_on.take_off(transfer_id)
        transfer = services.history.get_transfer(transfer_id, seen_by=by)
    logs.bind(job_id=str(transfer_id))
    if transfer.status is not Status.CANCELED:
        raise NotCancelable(transfer.status, _why_not(services, transfer))
    return transfer


def _why_not(services: Services, transfer: Transfer) -> str:
    if transfer.status is not Status.PENDING or transfer.bulk_id is None:
        return _WHY[transfer.status]
    is_atomic = services.bulks.find(transfer.bulk_id, seen_by=None).is_atomic
    return "it is of an atomic bulk, which ends as a whole" if is_atomic else _WHY[transfer.status]
