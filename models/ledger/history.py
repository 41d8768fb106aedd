"""Reading: balances, pages of history, single transfers. Each is one statement, so one snapshot; none takes a lock."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine

from models.database.session import Statement, read_rows
from models.errors import TransferNotFound, WalletNotFound
from models.ledger.settlement import EntryType
from models.ledger.transfer import MAX_ID, Details, Kind, Status, Transfer


class Balance(NamedTuple):
    """A wallet's posted balance in cents, its version in the same snapshot, and which sides of it are frozen."""

    cents: int
    version: int
    debits_frozen: bool = False
    credits_frozen: bool = False


class HistoryEntry(NamedTuple):
    """An entry as its owner sees it: the API calls it a transaction. Amounts are signed cents."""

    wallet_id: int
    seq: int
    transfer_id: int
    counterparty: int | None
    type: int  # an EntryType's value
    amount_cents: int
    balance_after_cents: int
    created_at: datetime
    # What was said of its transfer.
    description: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Some entries, newest first, and the wallet's balance and version in the same snapshot.

    ``next_seq``: the page after this one holds entries with a lower seq than it; None when there are none.
    """

    entries: list[HistoryEntry]
    statement_balance_cents: int
    version: int
    next_seq: int | None


class TransferRow(NamedTuple):
    """What of the table's row makes a :class:`Transfer`."""

    id: int
    kind: str
    source: int | None
    destination: int | None
    amount: int
    status: str
    reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    description: str | None
    reference: str | None
    metadata: dict[str, str] | None
    not_before: datetime | None
    reverses: int | None
    reversed_amount: int | None
    bulk_id: int | None


_BALANCE = Statement(
    "find_balance",
    ("bigint",),
    "SELECT balance, version, debits_frozen, credits_frozen FROM wallets WHERE id = $1",
)
# The wallet, and beside it the entries of the page, if there are any.
_PAGE_SQL = """
SELECT w.balance, w.version, e.seq, e.transfer_id, e.counterparty, e.type, e.amount, e.balance_after, e.created_at,
    t.description, t.reference
FROM wallets AS w LEFT JOIN LATERAL (
    SELECT * FROM entries WHERE wallet_id = w.id AND {which} ORDER BY seq DESC LIMIT {limit}
) AS e ON true LEFT JOIN LATERAL (
    SELECT description, reference FROM transfers WHERE id = e.transfer_id LIMIT 1
) AS t ON true
WHERE w.id = $1 ORDER BY e.seq DESC
"""
# seq has no gaps, so page N of the whole history is a range of the primary key.
_PAGE = Statement(
    "find_page",
    ("bigint", "bigint", "bigint", "int"),
    _PAGE_SQL.format(which="seq < $2 AND seq <= w.version - $3", limit="$4"),
)
# Filtered, the rows before the page are counted off, on the index alone; a cursor spares that too.
_PAGE_OF_TYPE = Statement(
    "find_page_of_type",
    ("bigint", "smallint", "bigint", "bigint", "int"),
    _PAGE_SQL.format(
        which="""type = $2 AND seq <= (
        SELECT seq FROM entries WHERE wallet_id = w.id AND type = $2 AND seq < $3 ORDER BY seq DESC LIMIT 1 OFFSET $4
    )""",
        limit="$5",
    ),
)
_TRANSFER = Statement(
    "find_transfer",
    ("bigint",),
    f"SELECT {', '.join(TransferRow._fields)} FROM transfers WHERE id = $1",  # noqa: S608 - of names in this file
)
# Transfers and bulks have their ids from one source, so that of either can be asked for at once.
_ENDED = Statement(
    "find_ended",
    ("bigint[]",),
    """
SELECT id FROM transfers WHERE id = ANY ($1) AND status <> 'pending'
UNION ALL SELECT id FROM bulks WHERE id = ANY ($1) AND completed_at IS NOT NULL
""",
)

_PROGRESS = Statement("find_progress", ("bigint[]",), "SELECT id, status, attempts FROM transfers WHERE id = ANY ($1)")


class Progress(NamedTuple):
    """How far a transfer has come: what changes of it, as long as it is somebody's to wait for."""

    transfer_id: int
    status: str
    attempts: int


class History:
    """Reads one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_balance(self, wallet_id: int) -> Balance:
        """Return the posted balance.

        Raises:
            WalletNotFound: the user has no wallet.
            Unavailable: the database cannot be reached.
        """
        rows = read_rows(self._engine, _BALANCE, wallet_id)
        if not rows:
            raise WalletNotFound(wallet_id)
        return Balance(*rows[0])

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
        skip = 0 if before_seq is not None else (page - 1) * size
        before = MAX_ID if before_seq is None else before_seq
        if entry_type is None:
            rows = read_rows(self._engine, _PAGE, wallet_id, before, skip, size + 1)
        else:
            rows = read_rows(self._engine, _PAGE_OF_TYPE, wallet_id, entry_type.value, before, skip, size + 1)
        if not rows:
            raise WalletNotFound(wallet_id)
        balance_cents, version, *_ = rows[0]
        found = [HistoryEntry(wallet_id, *row[2:]) for row in rows if row[2] is not None]
        return HistoryPage(
            entries=found[:size],
            statement_balance_cents=balance_cents,
            version=version,
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
        rows = read_rows(self._engine, _TRANSFER, transfer_id)
        transfer = as_transfer(TransferRow._make(rows[0])) if rows else None
        if transfer is None or (seen_by is not None and not transfer.is_party(seen_by)):
            raise TransferNotFound(transfer_id)
        return transfer

    def find_ended(self, ids: Collection[int]) -> set[int]:
        """Return which of these transfers are pending no more, and of which of these bulks none is: in one look.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return {ended for (ended,) in read_rows(self._engine, _ENDED, list(ids))}

    def find_progressed(self, seen: Collection[Progress]) -> set[Progress]:
        """Return which of these is no more how a transfer stands: all of them in one look.

        Raises:
            Unavailable: the database cannot be reached.
        """
        ids = {each.transfer_id for each in seen}
        stand = {Progress(*row) for row in read_rows(self._engine, _PROGRESS, list(ids))}
        return {each for each in seen if each not in stand}


def as_transfer(row: Any) -> Transfer:
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
        details=Details(row.description, row.reference, row.metadata),
        not_before=row.not_before,
        reverses=row.reverses,
        reversed_cents=row.reversed_amount,
        bulk_id=row.bulk_id,
    )
