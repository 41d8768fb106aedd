"""Reading: balances, pages of history, single transfers. Each is one statement, so one snapshot; none takes a lock."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, select, true

from models.database import fetch_all
from models.errors import TransferNotFound, WalletNotFound
from models.settlement import EntryType
from models.tables import entries, transfers, wallets
from models.transfer import Kind, Status, Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """An entry as its owner sees it: the API calls it a transaction. Amounts are signed cents."""

    wallet_id: int
    seq: int
    transfer_id: int
    counterparty: int | None
    type: EntryType
    amount_cents: int
    balance_after_cents: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Some entries, newest first, and the wallet's balance in the same snapshot.

    ``next_seq``: the page after this one holds entries with a lower seq than it; None when there are none.
    """

    entries: list[HistoryEntry]
    statement_balance_cents: int
    next_seq: int | None


class History:
    """Reads one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_balance(self, wallet_id: int) -> int:
        """Return the posted balance in cents.

        Raises:
            WalletNotFound: the user has no wallet.
            Unavailable: the database cannot be reached.
        """
        rows = fetch_all(self._engine, select(wallets.c.balance).where(wallets.c.id == wallet_id))
        if not rows:
            raise WalletNotFound(wallet_id)
        balance_cents: int = rows[0].balance
        return balance_cents

    def get_page(
        self,
        wallet_id: int,
        entry_type: EntryType | None,
        *,
        size: int,
        page: int = 1,
        before_seq: int | None = None,
    ) -> HistoryPage:
        """Return a page of a wallet's entries, newest first.

        Args:
            wallet_id: whose.
            entry_type: only these; None for all.
            size: entries a page.
            page: counted from 1 at the newest entry. Without a type it costs the same at any depth.
            before_seq: instead of a page: the ``next_seq`` of an earlier one. New entries do not shift it.

        Raises:
            WalletNotFound: the user has no wallet.
            Unavailable: the database cannot be reached.
        """
        query = _page_query(wallet_id, entry_type, limit=size + 1, skip=(page - 1) * size, before_seq=before_seq)
        rows = fetch_all(self._engine, query)
        if not rows:
            raise WalletNotFound(wallet_id)
        found = [_entry(row) for row in rows if row.seq is not None]
        return HistoryPage(
            entries=found[:size],
            statement_balance_cents=rows[0].statement_balance,
            next_seq=found[size - 1].seq if len(found) > size else None,
        )

    def get_transfer(self, transfer_id: int, *, seen_by: int | None) -> Transfer:
        """Return a transfer of any kind.

        Args:
            transfer_id: which.
            seen_by: the user who asks, who must be a party to it; None for an administrator.

        Raises:
            TransferNotFound: it does not exist, or not for this user.
            Unavailable: the database cannot be reached.
        """
        rows = fetch_all(self._engine, select(*_TRANSFER_COLUMNS).where(transfers.c.id == transfer_id))
        transfer = as_transfer(rows[0]) if rows else None
        if transfer is None or (seen_by is not None and not transfer.is_party(seen_by)):
            raise TransferNotFound(transfer_id)
        return transfer


def _page_query(
    wallet_id: int, entry_type: EntryType | None, *, limit: int, skip: int, before_seq: int | None
) -> Select[Any]:
    """Build the query: the wallet's balance, and beside it the entries of the page, if there are any.

    Unfiltered, seq has no gaps, so page N is a range of the primary key. Filtered, the rows before the page are
    counted off on the index; the cursor spares that.
    """
    conditions: list[ColumnElement[bool]] = [entries.c.wallet_id == wallets.c.id]
    offset = 0
    if before_seq is not None:
        conditions.append(entries.c.seq < before_seq)
    if entry_type is not None:
        conditions.append(entries.c.type == entry_type.value)
        offset = skip
    elif skip:
        conditions.append(entries.c.seq <= wallets.c.version - skip)
    page = select(entries).where(*conditions).order_by(entries.c.seq.desc()).limit(limit).offset(offset).lateral()
    return (
        select(wallets.c.balance.label("statement_balance"), page)
        .select_from(wallets.outerjoin(page, true()))
        .where(wallets.c.id == wallet_id)
        .order_by(page.c.seq.desc())
    )


def _entry(row: Row[Any]) -> HistoryEntry:
    return HistoryEntry(
        wallet_id=row.wallet_id,
        seq=row.seq,
        transfer_id=row.transfer_id,
        counterparty=row.counterparty,
        type=EntryType(row.type),
        amount_cents=row.amount,
        balance_after_cents=row.balance_after,
        created_at=row.created_at,
    )


_TRANSFER_COLUMNS = (
    transfers.c.id,
    transfers.c.kind,
    transfers.c.source,
    transfers.c.destination,
    transfers.c.amount,
    transfers.c.status,
    transfers.c.reason,
    transfers.c.attempts,
    transfers.c.last_error,
    transfers.c.next_attempt_at,
    transfers.c.created_at,
    transfers.c.completed_at,
)


def as_transfer(row: Row[Any]) -> Transfer:
    """Read a row of the transfers table."""
    return Transfer(
        id=row.id,
        kind=Kind(row.kind),
        source=row.source,
        destination=row.destination,
        amount_cents=row.amount,
        status=Status(row.status),
        reason=row.reason,
        attempts=row.attempts,
        last_error=row.last_error,
        next_attempt_at=row.next_attempt_at,
        created_at=row.created_at,
        completed_at=row.completed_at,
    )
