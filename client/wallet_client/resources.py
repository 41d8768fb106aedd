"""What the service answers. Money is integer cents, ids are integers, times are aware and in UTC."""

from dataclasses import dataclass
from datetime import date, datetime

# Statuses of a transfer that do not change any more, unless an administrator requeues one that has failed.
FINAL = frozenset({"posted", "rejected", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class Moved:
    """Money has moved; ``balance``: just after it. ``replayed``: it had moved before, under the same key."""

    balance: int
    transfer_id: int
    success: bool = True
    replayed: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A transfer that is durable, and will be posted or rejected by a job."""

    job_id: int
    status: str
    status_url: str
    success: bool = True
    replayed: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement of any kind: deposit, withdrawal, transfer. ``job_id`` is its id."""

    job_id: int
    status: str
    source_user_id: int | None
    destination_user_id: int | None
    amount: int
    reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    kind: str | None
    description: str | None
    reference: str | None
    metadata: dict[str, str] | None
    not_before: datetime | None
    reverses: int | None
    reversed_amount: int | None
    bulk_id: int | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return self.status in FINAL

    @property
    def is_posted(self) -> bool:
        """Whether the money has moved."""
        return self.status == "posted"


@dataclass(frozen=True, slots=True)
class TransfersPage:
    """Transfers, newest first. There may be fewer than were asked for, or none, and yet more to come."""

    transfers: tuple[Transfer, ...]
    page_size: int
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Frozen:
    """What an administrator has forbidden a wallet: to pay (debits), to be paid (credits)."""

    debits: bool
    credits: bool


@dataclass(frozen=True, slots=True)
class Freeze(Frozen):
    """The same, with why, since when and by whom."""

    reason: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class WalletState:
    """A wallet as administrators see it; ``version`` counts its entries."""

    user_id: int
    balance: int
    version: int
    opened_at: datetime
    frozen: Freeze | None


@dataclass(frozen=True, slots=True)
class Balance:
    """A posted balance; ``frozen``: what the wallet may not do, if anything."""

    balance: int
    frozen: Frozen | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """One entry of a wallet's history; ``amount`` is signed."""

    transaction_id: str
    transfer_id: int
    type: int
    transaction_type: str
    amount: int
    balance_after: int
    counterparty_user_id: int | None
    desc: str
    reference: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TransactionsPage:
    """A part of the history, newest first, and the balance in the same snapshot."""

    transactions: tuple[Transaction, ...]
    statement_balance: int
    page: int | None
    page_size: int
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """All entries between two days, oldest first, and the balances around them."""

    user_id: int
    from_: date
    to: date
    opening_balance: int
    closing_balance: int
    transactions: tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class BulkAccepted:
    """Transfers that are durable, all of them."""

    bulk_id: int
    count: int
    status_url: str
    replayed: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Bulk:
    """How transfers that were ordered together stand: how many of each status, and what they come to."""

    bulk_id: int
    count: int
    amount: int
    atomic: bool
    pending: int
    posted: int
    rejected: int
    failed: int
    canceled: int
    created_at: datetime
    completed_at: datetime | None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of any of them by itself."""
        return self.pending == 0


@dataclass(frozen=True, slots=True)
class DeadLettersPage:
    """Transfers whose attempts ran out, newest first."""

    dead_letters: tuple[Transfer, ...]
    page_size: int
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Requeued:
    """A dead letter that was asked to be put back; ``requeued``: whether it was this call that did it."""

    requeued: bool
    job: Transfer


@dataclass(frozen=True, slots=True)
class RequeuedAll:
    """How many dead letters were put back."""

    requeued: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a transfer, and the transfer as it was then. A ``webhook.test`` has none."""

    event_id: int
    type: str
    created_at: datetime
    data: Transfer | None


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Events, oldest first; ``missed``: how many before them are kept no more."""

    events: tuple[Event, ...]
    next_after: int
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold."""

    invariant: str
    count: int
    ids: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit has found so far."""

    ok: bool | None
    started_at: datetime | None
    finished_at: datetime | None
    checked: dict[str, int]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Audit(Audited):
    """The last audit that was finished (all None if there was none), and the one under way."""

    under_way: Audited | None


@dataclass(frozen=True, slots=True)
class Action:
    """Something that an administrator did."""

    at: datetime
    who: str
    what: str
    on: str
    from_: str
    outcome: str


@dataclass(frozen=True, slots=True)
class ActionsPage:
    """What administrators did, newest first."""

    actions: tuple[Action, ...]
    page_size: int
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events are sent to. ``why`` it is disabled: ``gone`` (its receiver has answered 410), or ``failing``."""

    webhook_id: int
    url: str
    types: tuple[str, ...]
    user_id: int | None
    status: str
    why: str | None
    created_at: datetime
    disabled_at: datetime | None
    failing_since: datetime | None
    old_secret_until: datetime | None


@dataclass(frozen=True, slots=True)
class AddedWebhook(Webhook):
    """One that was just made, and its secret, which is never told again."""

    secret: str


@dataclass(frozen=True, slots=True)
class RotatedWebhook:
    """A new secret, which is never told again, and until when the one before signs along."""

    webhook_id: int
    secret: str
    old_secret_until: datetime


@dataclass(frozen=True, slots=True)
class DeletedWebhook:
    """It is gone."""

    deleted: bool


@dataclass(frozen=True, slots=True)
class TestedWebhook:
    """The event that is being sent."""

    event_id: int
    type: str


@dataclass(frozen=True, slots=True)
class ReplayedWebhook:
    """After which event what is sent again begins."""

    after: int


@dataclass(frozen=True, slots=True)
class WebhooksPage:
    """All webhooks there are."""

    webhooks: tuple[Webhook, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver: its HTTP status and the beginning of the answer, or why there was none."""

    at: datetime
    http_status: int | None
    duration_ms: int
    answer: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook, and its attempts, oldest first."""

    event_id: int
    type: str
    status: str
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class DeliveriesPage:
    """Events that were sent, or are to be, newest first."""

    deliveries: tuple[Delivery, ...]
    page_size: int | None
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """The process lives."""

    status: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can work, and how what it depends on is doing."""

    status: str
    dependencies: dict[str, str]
