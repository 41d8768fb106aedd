"""Statements: a wallet's entries between two days, however many, in constant memory and without a long transaction.

Entries are immutable, and a wallet's seq has no gaps and grows with time. So a wallet's version, read once, bounds
what a statement shows as well as a snapshot would, and days are found in the entries by halving.

An instant is found likewise, so what a wallet held then is a look-up, and no sum.

Entries that have left for an archive (archives.py) are the only ones that can be missing: before the wallet's opening,
or, should they leave just now, where they were expected. Then there is no statement, rather than one with a gap.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, select, true

from models.database.engine import fetch_all
from models.errors import EntriesLeft, WalletNotFound
from models.ledger.history import HistoryEntry
from models.ledger.settlement import EntryType
from models.schema.tables import entries, openings, transfers, wallets

# Entries a query.
SLICE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletView:
    """A wallet as it stands: ``version`` counts its entries, of which ``newest`` are the last few, newest first."""

    wallet_id: int
    balance_cents: int
    version: int
    opened_at: datetime
    newest: list[HistoryEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a wallet held before and after a range of its entries, which :meth:`Statements.entries` reads."""

    wallet_id: int
    seqs: range
    opening_balance_cents: int
    closing_balance_cents: int


class Statements:
    """Reads one database. Every method raises :class:`~models.errors.Unavailable` when it cannot be reached."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_wallet(self, wallet_id: int, *, newest: int) -> WalletView:
        """Return a wallet with its newest entries.

        Raises:
            WalletNotFound: the user has no wallet.
        """
        row = self._wallet(wallet_id)
        last = entries.c.seq > row.version - newest, entries.c.seq <= row.version
        found = fetch_all(self._engine, _entries(wallet_id, *last)) if newest else []
        return WalletView(
            wallet_id=wallet_id,
            balance_cents=row.balance,
            version=row.version,
            opened_at=row.created_at,
            newest=[_entry(each) for each in reversed(found)],
        )

    def get_statement(self, wallet_id: int, first_day: date, last_day: date) -> Statement:
        """Find the entries from the beginning of one day to the end of another, both in UTC.

        Raises:
            WalletNotFound: the user has no wallet.
            EntriesLeft: some of these days' entries have left the database, or may have.
        """
        wallet = self._wallet(wallet_id)
        from_instant = datetime.combine(first_day, time.min, UTC)
        if wallet.last_at is not None and from_instant <= wallet.last_at:
            raise EntriesLeft(wallet_id, wallet.last_at.astimezone(UTC).date())
        seqs, instant_of = _seqs(wallet), self._instants(wallet_id)
        first = bisect_left(seqs, from_instant, key=instant_of)
        # To the microsecond, which is as fine as PostgreSQL's clock is.
        end = bisect_right(seqs, datetime.combine(last_day, time.max, UTC), lo=first, key=instant_of)
        opening_cents = self._balance_after(wallet, first)
        return Statement(
            wallet_id=wallet_id,
            seqs=seqs[first:end],
            opening_balance_cents=opening_cents,
            closing_balance_cents=self._balance_after(wallet, end) if end > first else opening_cents,
        )

    def get_balance_at(self, wallet_id: int, instant: datetime) -> int:
        """Return what a wallet held at an instant, in cents: with all that was posted by then; 0 before there was any.

        Raises:
            WalletNotFound: the user has no wallet.
            EntriesLeft: entries of this time have left the database, or may have.
        """
        wallet = self._wallet(wallet_id)
        if wallet.last_at is not None and instant < wallet.last_at:
            raise EntriesLeft(wallet_id, wallet.last_at.astimezone(UTC).date())
        return self._balance_after(wallet, bisect_right(_seqs(wallet), instant, key=self._instants(wallet_id)))

    def entries(self, statement: Statement) -> Iterator[HistoryEntry]:
        """Read a statement's entries, oldest first.

        Raises:
            EntriesLeft: some of them have left the database meanwhile.
        """
        for first in range(statement.seqs.start, statement.seqs.stop, SLICE):
            seqs = statement.seqs[first - statement.seqs.start :][:SLICE]
            query = _entries(statement.wallet_id, entries.c.seq >= seqs.start, entries.c.seq < seqs.stop)
            rows = fetch_all(self._engine, query)
            if len(rows) < len(seqs):
                raise EntriesLeft(statement.wallet_id)
            yield from map(_entry, rows)

    def _wallet(self, wallet_id: int) -> Row[Any]:
        opening = (openings.c.seq.label("opening_seq"), openings.c.balance.label("opening_balance"), openings.c.last_at)
        query = select(wallets, *opening).outerjoin(openings, openings.c.wallet_id == wallets.c.id)
        rows = fetch_all(self._engine, query.where(wallets.c.id == wallet_id))
        if not rows:
            raise WalletNotFound(wallet_id)
        return rows[0]

    def _instants(self, wallet_id: int) -> Callable[[int], datetime]:
        def instant_of(seq: int) -> datetime:
            instant: datetime = self._row(wallet_id, seq).created_at
            return instant

        return instant_of

    def _balance_after(self, wallet: Row[Any], count: int) -> int:
        """Return the balance after so many of the entries that are here."""
        cents: int = (
            self._row(wallet.id, _seqs(wallet)[count - 1]).balance_after if count else wallet.opening_balance or 0
        )
        return cents

    def _row(self, wallet_id: int, seq: int) -> Row[Any]:
        rows = fetch_all(self._engine, _entries(wallet_id, entries.c.seq == seq))
        if not rows:
            raise EntriesLeft(wallet_id)
        return rows[0]


def _seqs(wallet: Row[Any]) -> range:
    """The entries that are here."""
    return range((wallet.opening_seq or 0) + 1, wallet.version + 1)


def _entries(wallet_id: int, *conditions: ColumnElement[bool]) -> Select[Any]:
    said = select(transfers.c.description, transfers.c.reference).where(transfers.c.id == entries.c.transfer_id)
    details = said.limit(1).lateral("details")  # a look-up by key for each: see history.py
    query = select(entries, details).outerjoin(details, true())
    return query.where(entries.c.wallet_id == wallet_id, *conditions).order_by(entries.c.seq)


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
        description=row.description,
        reference=row.reference,
    )
