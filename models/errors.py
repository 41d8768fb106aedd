"""Every way in which moving money can end other than well, as facts: ids and amounts, never HTTP.

One base, three families. A :class:`Refused` is a business no: final, nothing moved. A :class:`Fault` is technical:
trying again may help. The first line of a class's docstring is its message.
"""

from datetime import date
from typing import ClassVar, Literal


class WalletServiceError(Exception):
    """Base of every error that this service raises on purpose."""

    def __str__(self) -> str:
        """Return the message: the docstring's first line, and the facts."""
        facts = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        message = (self.__doc__ or type(self).__name__).partition("\n")[0]
        return f"{message} ({facts})" if facts else message


class Refused(WalletServiceError):
    """The books do not allow it; nothing moved."""

    code: ClassVar[str]


class WalletNotFound(Refused):
    """The user has no wallet."""

    code = "wallet_not_found"

    def __init__(self, wallet_id: int | None = None) -> None:
        super().__init__()
        self.wallet_id = wallet_id


class WalletFrozen(Refused):
    """An administrator has frozen the wallet, for money that would leave it or for money that would come."""

    code = "wallet_frozen"

    def __init__(self, side: Literal["payer", "payee"] | None = None) -> None:
        """``side``: whose wallet it is, where that is known."""
        super().__init__()
        self.side = side

    def __str__(self) -> str:
        """Return which side it is."""
        match self.side:
            case "payer":
                return "The payer's wallet is frozen by an administrator: no money leaves it."
            case "payee":
                return "The payee's wallet is frozen by an administrator: no money comes."
        return f"{self.__doc__}"


class BalanceInsufficient(Refused):
    """The balance is below the amount."""

    code = "balance_insufficient"


class BalanceOverflow(Refused):
    """The balance would pass the largest amount that a wallet can hold, 2^63-1 cents."""

    code = "balance_overflow"


class SelfTransferInvalid(Refused):
    """Money cannot be transferred from a wallet to itself."""

    code = "self_transfer_invalid"


class NotReversible(Refused):
    """Only a transfer that was posted, and is no reversal itself, can be given back."""

    code = "not_reversible"


class ReversalExceeds(Refused):
    """No more can be given back of a transfer than is left of it."""

    code = "reversal_exceeds"

    def __init__(self, left_cents: int | None = None) -> None:
        """``left_cents``: what is left, where that is known."""
        super().__init__()
        if left_cents is not None:
            self.left = left_cents


class IdempotencyKeyReused(Refused):
    """The idempotency key was used before, for another request."""

    code = "idempotency_key_reused"

    def __init__(self, transfer_id: int | None = None) -> None:
        """``transfer_id``: what the key is bound to."""
        super().__init__()
        self.transfer_id = transfer_id


class BulkRejected(Refused):
    """Another transfer of an atomic bulk was refused."""

    code = "bulk_rejected"


class BulkNotFound(WalletServiceError):
    """There is no such bulk, or it is not the asker's to see."""

    def __init__(self, bulk_id: int) -> None:
        super().__init__()
        self.bulk_id = bulk_id


class NotCancelable(Refused):
    """The transfer cannot be canceled."""

    code = "not_cancelable"

    def __init__(self, status: str, why: str) -> None:
        """``status``: how it stands. ``why``: half a sentence for whoever wanted to cancel it."""
        super().__init__()
        self.status = status
        self.why = why

    def __str__(self) -> str:
        """Return why, and how it stands."""
        return f"The transfer cannot be canceled: {self.why} (it is {self.status})."


class TransferNotFound(WalletServiceError):
    """There is no such transfer, or it is not the asker's to see."""

    def __init__(self, transfer_id: int) -> None:
        super().__init__()
        self.transfer_id = transfer_id


class WebhookNotFound(WalletServiceError):
    """There is no such webhook."""

    def __init__(self, webhook_id: int) -> None:
        super().__init__()
        self.webhook_id = webhook_id


class TooManyWebhooks(WalletServiceError):
    """There are as many webhooks as there may be."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


class EventNotFound(WalletServiceError):
    """There is no such event, it is no longer kept, or the webhook is not told of it."""

    def __init__(self, event_id: int) -> None:
        super().__init__()
        self.event_id = event_id


class EntriesLeft(WalletServiceError):
    """Entries of this time have left the database for an archive."""

    def __init__(self, wallet_id: int, last_day: date | None = None) -> None:
        """``last_day``: the day in UTC that the newest of them was posted on; None: they are leaving just now."""
        super().__init__()
        self.wallet_id = wallet_id
        if last_day is not None:
            self.last_day = last_day


class NoIndexServes(WalletServiceError):
    """No index serves such a list."""

    def __init__(self, asked: str, needed: str) -> None:
        """``asked``: for which filter there is none; ``needed``: what has to be said besides."""
        super().__init__()
        self.asked = asked
        self.needed = needed


class NotArchived(WalletServiceError):
    """Nothing more leaves for an archive."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def __str__(self) -> str:
        """Return why."""
        return self.why


class Fault(WalletServiceError):
    """Something technical went wrong."""


class Unavailable(Fault):
    """The database cannot be reached, or is too busy; nothing moved."""


class OutcomeUnknown(Fault):
    """The reply to a commit was lost, and whether the money moved could not be looked up."""

    def __init__(self, transfer_id: int) -> None:
        super().__init__()
        self.transfer_id = transfer_id


REFUSALS: dict[str, type[Refused]] = {
    kind.code: kind
    for kind in (
        WalletNotFound,
        WalletFrozen,
        BalanceInsufficient,
        BalanceOverflow,
        SelfTransferInvalid,
        IdempotencyKeyReused,
        NotReversible,
        ReversalExceeds,
        BulkRejected,
    )
}
