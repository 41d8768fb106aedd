"""Every call of the contract: what it is, what it answers, and whether it may be made twice.

A test holds :data:`ALL` against the service's ``/openapi.json``.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from wallet_client import resources

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One call. ``path`` is that of the document.

    ``answer``: a resource; ``str`` for text, ``dict`` for JSON as it is, ``NoneType`` where the answer says nothing.
    ``moves_money``: it goes under an idempotency key. ``repeatable``: made twice it comes to the same as made once.
    ``also``: a status that is an answer, too.
    """

    method: str
    path: str
    answer: type[T]
    moves_money: bool = False
    repeatable: bool = True
    also: int | None = None

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "GET"


DEPOSIT = Operation("POST", "/api/deposit/v1", resources.Moved, moves_money=True)
WITHDRAW = Operation("POST", "/api/withdraw/v1", resources.Moved, moves_money=True)
TRANSFER_NOW = Operation("POST", "/api/transfer/v1", resources.Moved, moves_money=True)
TRANSFER_LATER = Operation("POST", "/api/transfer/v2", resources.Accepted, moves_money=True)
TRANSFER_BULK = Operation("POST", "/api/transfers/bulk/v1", resources.BulkAccepted, moves_money=True)
REVERSE = Operation("POST", "/api/transfers/v1/{transfer_id}/reverse", resources.Moved, moves_money=True)
CANCEL = Operation("POST", "/api/jobs/v1/{job_id}/cancel", resources.Transfer)

JOB = Operation("GET", "/api/jobs/v1/{job_id}", resources.Transfer)
TRANSFER = Operation("GET", "/api/transfers/v1/{transfer_id}", resources.Transfer)
TRANSFERS = Operation("GET", "/api/transfers/v1", resources.TransfersPage)
BULK = Operation("GET", "/api/bulks/v1/{bulk_id}", resources.Bulk)
BALANCE = Operation("GET", "/api/wallet/balance/v1", resources.Balance)
TRANSACTIONS = Operation("GET", "/api/transactions/v1", resources.TransactionsPage)
STATEMENT = Operation("GET", "/api/statements/v1", resources.Statement)
STATEMENT_CSV = Operation("GET", "/api/statements/v1", str)

DEAD_LETTERS = Operation("GET", "/api/dead-letters/v1", resources.DeadLettersPage)
REQUEUE = Operation("POST", "/api/dead-letters/v1/{job_id}/requeue", resources.Requeued)
REQUEUE_ALL = Operation("POST", "/api/dead-letters/v1/requeue", resources.RequeuedAll)
EVENTS = Operation("GET", "/api/events/v1", resources.EventsPage)
AUDIT = Operation("GET", "/api/audit/v1", resources.Audit)
ACTIONS = Operation("GET", "/api/actions/v1", resources.ActionsPage)
WALLET = Operation("GET", "/api/wallets/v1/{user_id}", resources.WalletState)
FREEZE = Operation("POST", "/api/wallets/v1/{user_id}/freeze", resources.WalletState)
UNFREEZE = Operation("POST", "/api/wallets/v1/{user_id}/unfreeze", resources.WalletState)

# Made twice, these make two webhooks, void the secret that the first answer had, or send twice.
ADD_WEBHOOK = Operation("POST", "/api/webhooks/v1", resources.AddedWebhook, repeatable=False)
ROTATE_WEBHOOK = Operation("POST", "/api/webhooks/v1/{webhook_id}/rotate", resources.RotatedWebhook, repeatable=False)
TEST_WEBHOOK = Operation("POST", "/api/webhooks/v1/{webhook_id}/test", resources.TestedWebhook, repeatable=False)
REPLAY_WEBHOOK = Operation("POST", "/api/webhooks/v1/{webhook_id}/replay", resources.ReplayedWebhook, repeatable=False)
# Its second answer would be that there is none.
REMOVE_WEBHOOK = Operation("DELETE", "/api/webhooks/v1/{webhook_id}", resources.DeletedWebhook, repeatable=False)
ENABLE_WEBHOOK = Operation("POST", "/api/webhooks/v1/{webhook_id}/enable", resources.Webhook)
WEBHOOKS = Operation("GET", "/api/webhooks/v1", resources.WebhooksPage)
DELIVERIES = Operation("GET", "/api/webhooks/v1/{webhook_id}/deliveries", resources.DeliveriesPage)

HEALTH = Operation("GET", "/healthz", resources.Health)
READINESS = Operation("GET", "/readyz", resources.Readiness, also=503)
METRICS = Operation("GET", "/metrics", str)
DOCUMENT = Operation("GET", "/openapi.json", dict[str, Any])

ALL: tuple[Operation[Any], ...] = tuple(each for each in list(globals().values()) if isinstance(each, Operation))
