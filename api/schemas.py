"""What comes in and what goes out. 64-bit ids go out as strings: JavaScript loses digits above 2^53."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from api.waiting import MAX_WAIT_S
from models.history import HistoryEntry
from models.settlement import EntryType
from models.transfer import MAX_CENTS, MAX_ID, Transfer

MAX_PAGE_SIZE = 100

_DIGITS = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,19}(\.[0-9]{1,19})?")


def _digits_to_int(value: object) -> object:
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def _decimal_to_float(value: object) -> object:
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def _check_id(digits: str) -> str:
    if int(digits) > MAX_ID:
        raise PydanticCustomError("too_large", "Input should be a cursor that was given before")
    return digits


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


AmountCents: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_CENTS)]
IdIn: TypeAlias = Annotated[int, BeforeValidator(_digits_to_int), Field(strict=True, ge=1, le=MAX_ID)]
# Queries are text. Pydantic's own reading of it is Python's, which takes 1_0, 1.0 and a leading blank for integers.
QueryInt: TypeAlias = Annotated[int, BeforeValidator(_digits_to_int), Field(strict=True)]
QueryFloat: TypeAlias = Annotated[float, BeforeValidator(_decimal_to_float), Field(strict=True)]
Cursor: TypeAlias = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,18}$"), AfterValidator(_check_id)]
IdOut: TypeAlias = Annotated[int, PlainSerializer(str, return_type=str)]
Instant: TypeAlias = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class AmountBody(_Body):
    """How much to deposit or withdraw, in cents."""

    amount: AmountCents


class TransferBody(_Body):
    """Whom to pay, and how much, in cents."""

    destination_user_id: IdIn
    amount: AmountCents


class NoQuery(_Body):
    """No query parameters."""


class JobQuery(_Body):
    """How many seconds to wait for the job to end."""

    wait: QueryFloat = Field(default=0.0, ge=0, le=MAX_WAIT_S)


class TransactionsQuery(_Body):
    """Which part of the history: a page by its number, or what comes after a cursor."""

    type: QueryInt = Field(default=0, ge=0, le=3)
    page: QueryInt | None = Field(default=None, ge=1, le=10**12)
    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = None


class HealthOut(_Answer):
    """The process lives."""

    status: Literal["ok"]


class ReadinessOut(_Answer):
    """Whether the service can work, and how each thing that it depends on is doing."""

    status: Literal["ready", "degraded", "unready", "stopping"]
    dependencies: dict[str, str]


class BalanceOut(_Answer):
    """A posted balance in cents."""

    balance: int


class MoneyOut(_Answer):
    """The balance in cents just after the transfer."""

    balance: int
    transfer_id: IdOut


class TransferOut(MoneyOut):
    """A transfer that was waited for: the money has moved."""

    success: Literal[True] = True


class AcceptedOut(_Answer):
    """A transfer that is durable and will be posted or rejected by a job."""

    success: Literal[True] = True
    job_id: IdOut
    status: Literal["pending"] = "pending"
    status_url: str


class JobOut(_Answer):
    """A transfer of any kind, as the job that makes it true."""

    job_id: IdOut
    status: str
    source_user_id: IdOut | None
    destination_user_id: IdOut | None
    amount: int
    reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: Instant | None
    created_at: Instant
    completed_at: Instant | None

    @classmethod
    def of(cls, transfer: Transfer) -> "JobOut":
        """Show a transfer."""
        return cls(
            job_id=transfer.id,
            status=transfer.status.value,
            source_user_id=transfer.source,
            destination_user_id=transfer.destination,
            amount=transfer.amount_cents,
            reason=transfer.reason,
            attempts=transfer.attempts,
            last_error=transfer.last_error,
            next_attempt_at=transfer.next_attempt_at,
            created_at=transfer.created_at,
            completed_at=transfer.completed_at,
        )


class DeadLettersQuery(_Body):
    """Which dead letters: how many, and below which id (the ``next_cursor`` of an earlier page)."""

    page_size: QueryInt = Field(default=30, ge=1, le=MAX_PAGE_SIZE)
    cursor: Cursor | None = None


class DeadLettersOut(_Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[JobOut]
    page_size: int
    has_more: bool
    next_cursor: str | None


class RequeuedOut(_Answer):
    """A transfer after it was asked to be put back; ``requeued``: whether it was this request that did it."""

    requeued: bool
    job: JobOut


class RequeuedAllOut(_Answer):
    """How many dead letters were put back."""

    requeued: int


class TransactionOut(_Answer):
    """One entry of the history; ``amount`` is signed cents."""

    transaction_id: str
    transfer_id: IdOut
    type: int
    transaction_type: str
    amount: int
    balance_after: int
    counterparty_user_id: IdOut | None
    desc: str
    created_at: Instant

    @classmethod
    def of(cls, entry: HistoryEntry) -> "TransactionOut":
        """Show an entry."""
        return cls(
            transaction_id=f"{entry.wallet_id}-{entry.seq}",
            transfer_id=entry.transfer_id,
            type=entry.type.value,
            transaction_type=_TYPE_NAMES[entry.type],
            amount=entry.amount_cents,
            balance_after=entry.balance_after_cents,
            counterparty_user_id=entry.counterparty,
            desc=_describe(entry),
            created_at=entry.created_at,
        )


class TransactionsOut(_Answer):
    """A page of the history, newest first, and the balance in the same snapshot. ``page`` is null after a cursor."""

    transactions: list[TransactionOut]
    statement_balance: int
    page: int | None
    page_size: int
    has_more: bool
    next_cursor: str | None


_TYPE_NAMES = {EntryType.DEPOSIT: "deposit", EntryType.WITHDRAWAL: "withdraw", EntryType.TRANSFER: "transfer"}


def _describe(entry: HistoryEntry) -> str:
    if entry.type is EntryType.TRANSFER:
        return f"transfer {'to' if entry.amount_cents < 0 else 'from'} user {entry.counterparty}"
    return _TYPE_NAMES[entry.type]
