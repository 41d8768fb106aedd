"""Orders as the API takes them: counted by what came of them. A replay is the same transfer, and counts no more."""

from models.errors import Refused
from models.ledger.orders import Orders
from models.ledger.transfer import Acceptance, Order, Receipt
from observe import metrics


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
            metrics.transfers[order.kind, "posted"].inc()
        return receipt

    def accept(self, order: Order) -> Acceptance:
        """Record a transfer for later, see :meth:`Orders.accept`."""
        try:
            acceptance = super().accept(order)
        except Refused:
            metrics.transfers[order.kind, "refused"].inc()
            raise
        if not acceptance.replayed:
            metrics.transfers[order.kind, "accepted"].inc()
        return acceptance
