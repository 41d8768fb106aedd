"""One's own wallet: deposits and withdrawals, the balance, the history."""

from functools import partial
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field, WithJsonSchema

from api.contract.details import Said
from api.contract.fields import (
    AmountCents,
    BalanceCents,
    Cursor,
    IdOut,
    Incoming,
    Instant,
    IntIn,
    Outgoing,
    PageNumber,
    PageSize,
    SignedCents,
    words,
)
from api.contract.instants import InstantIn
from api.contract.operations import AN_ID, AN_INSTANT, Answer, Operation
from models.ledger.history import HistoryEntry
from models.ledger.settlement import EntryType

_TYPE_NAMES: dict[int, str] = {
    EntryType.DEPOSIT: "deposit",
    EntryType.WITHDRAWAL: "withdraw",
    EntryType.TRANSFER: "transfer",
}

TypeNumber: TypeAlias = Annotated[int, WithJsonSchema({"type": "integer", "enum": [each.value for each in EntryType]})]
TypeName: TypeAlias = Annotated[str, words(_TYPE_NAMES.values())]


class AmountBody(Said):
    """How much to deposit or withdraw, in cents, and what there is to say of it."""

    amount: AmountCents


class MoneyOut(Outgoing):
    """The balance in cents just after the transfer."""

    balance: BalanceCents
    transfer_id: IdOut


class BalanceQuery(Incoming):
    """At which instant; without it, now."""

    at: InstantIn | None = Field(
        default=None, description="Not in the future. RFC 3339, with an offset; a `+` is spelled `%2B` here."
    )


class FrozenOut(Outgoing):
    """Which sides of a wallet an administrator has frozen: no money leaves it (debits), none comes (credits)."""

    debits: bool
    credits: bool

    @classmethod
    def of(cls, *, debits: bool, credits: bool) -> "FrozenOut | None":  # noqa: A002 - the contract's word
        """Show them; None: neither is."""
        return cls(debits=debits, credits=credits) if debits or credits else None


class BalanceOut(Outgoing):
    """A posted balance in cents. ``frozen`` is there only if a side is."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    balance: BalanceCents
    frozen: Annotated[FrozenOut | None, Field(exclude_if=lambda frozen: frozen is None)] = None


class TransactionsQuery(Incoming):
    """Which part of the history: a page by its number, or what comes after a cursor."""

    type: IntIn = Field(default=0, ge=0, le=3, description="0 all, 1 deposits, 2 withdrawals, 3 transfers.")
    page: PageNumber | None = Field(default=None, description="Without it the first one. A cursor goes before it.")
    page_size: PageSize = 30
    cursor: Cursor = None


class TransactionOut(Outgoing):
    """One entry of the history; ``amount`` is signed cents."""

    transaction_id: str
    transfer_id: IdOut
    type: TypeNumber
    transaction_type: TypeName
    amount: SignedCents
    balance_after: BalanceCents
    counterparty_user_id: IdOut | None
    desc: str
    reference: str | None
    created_at: Instant

    @classmethod
    def of(cls, entry: HistoryEntry) -> "TransactionOut":
        """Show an entry."""
        return cls(
            transaction_id=f"{entry.wallet_id}-{entry.seq}",
            transfer_id=entry.transfer_id,
            type=entry.type,
            transaction_type=_TYPE_NAMES[entry.type],
            amount=entry.amount_cents,
            balance_after=entry.balance_after_cents,
            counterparty_user_id=entry.counterparty,
            desc=_describe(entry),
            reference=entry.reference,
            created_at=entry.created_at,
        )


def _describe(entry: HistoryEntry) -> str:
    if entry.description is not None:
        return entry.description
    if entry.type == EntryType.TRANSFER:
        return f"transfer {'to' if entry.amount_cents < 0 else 'from'} user {entry.counterparty}"
    return _TYPE_NAMES[entry.type]


class TransactionsOut(Outgoing):
    """A page of the history, newest first, and the balance in the same snapshot. ``page`` is null after a cursor."""

    transactions: list[TransactionOut]
    statement_balance: BalanceCents
    page: int | None
    page_size: int
    has_more: bool
    next_cursor: IdOut | None


AN_ENTRY = {
    "transaction_id": "1-4",
    "transfer_id": AN_ID,
    "type": 3,
    "transaction_type": "transfer",
    "amount": -1003,
    "balance_after": 8997,
    "counterparty_user_id": "2",
    "desc": "rent for November",
    "reference": "INV-2026-118",
    "created_at": AN_INSTANT,
}
_move = partial(Operation, tag="Money", body=AmountBody, body_example={"amount": 67}, moves_money=True)

OPERATIONS = {
    "wallets.deposit": _move(
        Answer(MoneyOut, example={"balance": 10067, "transfer_id": AN_ID}, links=("transfer",)),
        # Forbidden: by a token without the scope that deposits need.
        problems=("forbidden", "wallet_frozen", "balance_overflow"),
    ),
    "wallets.withdraw": _move(
        Answer(MoneyOut, example={"balance": 9933, "transfer_id": AN_ID}, links=("transfer",)),
        problems=("wallet_not_found", "wallet_frozen", "balance_insufficient"),
    ),
    "wallets.balance": Operation(
        Answer(BalanceOut, example={"balance": 10000}),
        tag="Reads",
        query=BalanceQuery,
        problems=("wallet_not_found", "entries_left"),
    ),
    "wallets.transactions": Operation(
        Answer(
            TransactionsOut,
            example={
                "transactions": [AN_ENTRY],
                "statement_balance": 8997,
                "page": 1,
                "page_size": 1,
                "has_more": True,
                "next_cursor": "4",
            },
            links=("next_transactions",),
        ),
        tag="Reads",
        query=TransactionsQuery,
        problems=("wallet_not_found",),
    ),
}
