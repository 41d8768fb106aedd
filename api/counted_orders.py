"""Orders as the API takes them: counted by what came of them. A replay is the same transfer, and counts no more."""

import structlog

from models.errors import OutcomeUnknown, Refused
from models.ledger.orders import Orders
from models.ledger.transfer import Acceptance, Order, Receipt
from observe import metrics

_log = structlog.get_logger("api")


class CountedOrders(Orders):
    """Takes orders, and counts them."""

    def execute(self, order: Order) -> Receipt:
        """Post an order now, see :meth:`Orders.execute`."""
        try:
            receipt = super().execute(order)
        except Refused:
            metrics.transfers[order.kind, "refused"].inc()
            raise
        if not receipt.replayed:
            _count(order, "posted", receipt.transfer_id)
        return receipt

    def accept(self, order: Order) -> Acceptance:
        """Record a transfer for later, see :meth:`Orders.accept`."""
        try:
            acceptance = super().accept(order)
        except Refused:
            metrics.transfers[order.kind, "refused"].inc()
            raise
        if not acceptance.replayed:
            _count(order, "accepted", acceptance.transfer_id)
        return acceptance


def _count(order: Order, outcome: str, transfer_id: int) -> None:
    """Count what stands in the books: whatever should go wrong here, nobody is to be told that nothing moved."""
    try:
        metrics.transfers[order.kind, outcome].inc()
    except Exception as error:
        _log.critical("unexpected error", transfer_id=str(transfer_id), exc_info=True)
        raise OutcomeUnknown(transfer_id) from error
