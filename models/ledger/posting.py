"""Posting: the one function that writes balances and entries.

Deposits, withdrawals, transfers that are waited for and batches of jobs all go through :func:`post`, under row locks
that everybody takes in the same order: transfers by id, then wallets by id. Two batches that meet therefore wait for
each other and never for each other in a circle.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection

from models.cache.kept_evictions import keeping
from models.cache.wallet_cache import Evict, nobody_caches
from models.database.session import Session, Statement
from models.ledger.settlement import Decision, Pending, Settlement, Wallet, settle
from models.ledger.transfer import Status

# FOR NO KEY UPDATE, not FOR UPDATE: an insert elsewhere that merely refers to a row takes KEY SHARE on it, and the two
# dead-locked 228 of 240 concurrent transfers in a trial; with NO KEY UPDATE none.
_LOCK_TRANSFERS = """
SELECT id, source, destination, amount, trace FROM transfers
WHERE id = ANY (%s::bigint[]) AND status = 'pending' ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_WALLETS = """
SELECT id, balance, version FROM wallets WHERE id = ANY (%s::bigint[]) ORDER BY id FOR NO KEY UPDATE
"""
_FIND_WALLETS = "SELECT id FROM wallets WHERE id = ANY (%s::bigint[])"
_OPEN_WALLETS = """
INSERT INTO wallets (id) SELECT * FROM unnest(%s::bigint[]) ORDER BY 1 ON CONFLICT DO NOTHING
"""
_OPEN_WALLET = Statement("open_wallet", ("bigint",), "INSERT INTO wallets (id) VALUES ($1) ON CONFLICT DO NOTHING")
_LOCK_WALLET = Statement(
    "lock_wallet", ("bigint",), "SELECT id, balance, version FROM wallets WHERE id = $1 FOR NO KEY UPDATE"
)
_OPEN_NEW_WALLETS = _OPEN_WALLETS + " RETURNING id"
_FIND_OUTCOMES = "SELECT id, status, reason FROM transfers WHERE id = ANY (%s::bigint[])"
# One statement writes a whole batch. Its timestamp is taken while the locks are held, so a wallet's entries are in
# order of time as well as of seq.
_WRITE = """
WITH moved AS (
    UPDATE wallets AS w SET balance = new.balance, version = new.version
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS new (id, balance, version)
    WHERE w.id = new.id
), decided AS (
    UPDATE transfers AS t
    SET status = CASE WHEN new.reason IS NULL THEN 'posted' ELSE 'rejected' END,
        reason = new.reason, source_seq = new.source_seq, destination_seq = new.destination_seq,
        attempts = attempts + 1, next_attempt_at = NULL, completed_at = statement_timestamp()
    FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
        AS new (id, reason, source_seq, destination_seq)
    WHERE t.id = new.id
)
INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after, created_at)
SELECT new.*, statement_timestamp()
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::smallint[], %s::bigint[], %s::bigint[]) AS new
"""
# The same for one transfer that is posted, and is known to be: nothing to unnest, every row found by its key. Where a
# batch pays for arrays once, a single transfer would pay for them with more than half of its time.
_WRITE_ALONE = Statement(
    "write_posting",
    ("bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "smallint", "bigint"),
    """
WITH moved AS (
    UPDATE wallets SET balance = CASE id WHEN $2 THEN $4 ELSE $5 END, version = CASE id WHEN $2 THEN $6 ELSE $7 END
    WHERE id IN ($2, $3)
), decided AS (
    UPDATE transfers
    SET status = 'posted', source_seq = $6, destination_seq = $7,
        attempts = attempts + 1, next_attempt_at = NULL, completed_at = statement_timestamp()
    WHERE id = $1
)
INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after, created_at)
SELECT wallet_id, seq, $1, counterparty, $8, amount, balance_after, statement_timestamp()
FROM (VALUES ($2, $6, $3, -$9, $4), ($3, $7, $2, $9, $5)) AS new (wallet_id, seq, counterparty, amount, balance_after)
WHERE wallet_id IS NOT NULL
""",
)


class Outcome(NamedTuple):
    """How a transfer stands once its batch is done."""

    status: Status
    reason: str | None = None


@dataclass(slots=True)
class Posting:
    """What one call of :func:`post` did, before its commit.

    ``outcomes`` has every transfer that exists, those that were final before too; ``decided`` are those that were not;
    ``wallets`` has those that changed; ``traces`` the W3C traceparents of those that were decided now; ``kept``
    evictions that have to be done later.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    wallets: dict[int, Wallet] = field(default_factory=dict)
    traces: dict[int, str] = field(default_factory=dict)
    decided: list[int] = field(default_factory=list)
    kept: Mapping[int, int] = field(default_factory=dict)

    @property
    def versions(self) -> dict[int, int]:
        """The versions that the wallets which changed have now."""
        return {wallet_id: wallet.version for wallet_id, wallet in self.wallets.items()}


def post(
    connection: Connection, transfer_ids: Sequence[int], *, wait_for_locks: bool = True, evict: Evict = nobody_caches
) -> Posting:
    """Post a batch of recorded transfers in the caller's transaction: all of it becomes true at its commit.

    A transfer that is final already is left alone and its stored outcome returned, which is what makes it safe
    to run a job twice.

    Args:
        connection: in a transaction, or about to begin one.
        transfer_ids: in any order; repetitions and ids of no transfer do no harm.
        wait_for_locks: False leaves out, as still pending, every transfer that would have to wait for a lock.
        evict: drops cached reads of the wallets that change, while their locks are held.

    Raises:
        sqlalchemy.exc.DBAPIError: a technical fault; the transaction must be rolled back. It says nothing about
            which transfer is to blame.
    """
    locking = "" if wait_for_locks else " SKIP LOCKED"
    rows = _all(connection, _LOCK_TRANSFERS + locking, _array(transfer_ids))
    posting = post_locked(connection, [Pending._make(row[:4]) for row in rows], locking, evict)
    posting.traces = {row.id: row.trace for row in rows if row.trace and row.id in posting.outcomes}
    posting.decided = list(posting.outcomes)
    if missing := [transfer_id for transfer_id in transfer_ids if transfer_id not in posting.outcomes]:
        for transfer_id, status, reason in _all(connection, _FIND_OUTCOMES, _array(missing)):
            posting.outcomes[transfer_id] = Outcome(Status(status), reason)
    return posting


def post_locked(
    connection: Connection, batch: Sequence[Pending], locking: str = "", evict: Evict = nobody_caches
) -> Posting:
    """Post transfers, in id order, whose rows this transaction has locked or has just inserted."""
    if not batch:
        return Posting()
    wallets = _lock_wallets(connection, batch, locking)
    if locking:
        batch = _without_blocked(connection, batch, wallets)
    settlement = settle(batch, wallets)
    posting = _posting(settlement)
    posting.kept = evict(posting.versions)
    connection.exec_driver_sql(_WRITE, tuple(_parameters(settlement)))
    if posting.kept:
        connection.exec_driver_sql(keeping(posting.kept))
    return posting


def post_alone(session: Session, transfer: Pending, wallets: dict[int, Wallet], evict: Evict) -> Posting:
    """Post one transfer that this transaction has just inserted, and commit, if the books allow it.

    Args:
        session: in a transaction that holds the locks on the wallets.
        transfer: which.
        wallets: those of its parties that exist. One that a deposit is the first to name is opened.
        evict: drops cached reads of the wallets that change.

    Returns:
        What was done. A rejected transfer was not written, and the transaction still stands.
    """
    depositor = transfer.destination
    if transfer.source is None and depositor is not None and depositor not in wallets:
        session.run(_OPEN_WALLET, depositor)
        wallets = {row[0]: Wallet(*row[1:]) for row in session.rows(_LOCK_WALLET, depositor)}
    settlement = settle([transfer], wallets)
    posting = _posting(settlement)
    if settlement.entries:
        posting.kept = evict(posting.versions)
        then = f"{keeping(posting.kept)};COMMIT" if posting.kept else "COMMIT"
        session.run(_WRITE_ALONE, *_parameters_alone(transfer, settlement), then=then)
    return posting


def open_wallets(connection: Connection, wallet_ids: Iterable[int]) -> set[int]:
    """Open wallets without money, and return those that were not there.

    An insert that meets another one waits for it like for a lock. So whoever opens many, and posts into them
    afterwards, opens all of them first, in id order from one call to the next, while it holds no other lock.

    Raises:
        sqlalchemy.exc.DBAPIError: a technical fault; the transaction must be rolled back.
    """
    return {row.id for row in _all(connection, _OPEN_NEW_WALLETS, _array(sorted(wallet_ids)))}


def _lock_wallets(connection: Connection, batch: Sequence[Pending], locking: str) -> dict[int, Wallet]:
    """Lock all the wallets of a batch, opening those that a deposit is the first to name."""
    wallets = _locked(connection, _parties(batch), locking)
    depositors = {transfer.destination for transfer in batch if transfer.source is None and transfer.destination}
    # Locked out of id order, which is safe as long as whoever opens a wallet posts nothing else: a deposit is always
    # a batch of one. A batch of deposits would have to open first, and then lock everything in order.
    if fresh := depositors - wallets.keys():
        connection.exec_driver_sql(_OPEN_WALLETS, (_array(sorted(fresh)),))
        wallets |= _locked(connection, fresh, locking)
    return wallets


def _without_blocked(connection: Connection, batch: Sequence[Pending], wallets: dict[int, Wallet]) -> list[Pending]:
    """Leave out the transfers of wallets that exist and are not ours to lock now."""
    unlocked = _parties(batch) - wallets.keys()
    blocked = {row.id for row in _all(connection, _FIND_WALLETS, _array(unlocked))}
    return [transfer for transfer in batch if not blocked & {transfer.source, transfer.destination}]


def _parties(batch: Sequence[Pending]) -> set[int]:
    return {wallet_id for _, *parties, _ in batch for wallet_id in parties if wallet_id is not None}


def _locked(connection: Connection, wallet_ids: Iterable[int], locking: str) -> dict[int, Wallet]:
    rows = _all(connection, _LOCK_WALLETS + locking, _array(wallet_ids))
    return {wallet_id: Wallet(balance_cents, version) for wallet_id, balance_cents, version in rows}


def _posting(settlement: Settlement) -> Posting:
    outcomes = {decision.transfer_id: _outcome(decision) for decision in settlement.decisions}
    return Posting(outcomes, settlement.wallets)


def _parameters(settlement: Settlement) -> list[str]:
    wallets = [(wallet_id, *wallet) for wallet_id, wallet in settlement.wallets.items()]
    return [*_columns(wallets, 3), *_columns(settlement.decisions, 4), *_columns(settlement.entries, 7)]


def _parameters_alone(transfer: Pending, settlement: Settlement) -> tuple[int | None, ...]:
    transfer_id, source, destination, amount_cents = transfer
    payer, payee = (settlement.wallets[side] if side is not None else None for side in (source, destination))
    (decision,), entry_type = settlement.decisions, settlement.entries[0].type
    balances = (payer and payer.balance_cents, payee and payee.balance_cents)
    seqs = (decision.source_seq, decision.destination_seq)
    return (transfer_id, source, destination, *balances, *seqs, entry_type, amount_cents)


def _outcome(decision: Decision) -> Outcome:
    return Outcome(Status.POSTED if decision.reason is None else Status.REJECTED, decision.reason)


def _all(connection: Connection, statement: str, array: str) -> Sequence[Any]:
    return connection.exec_driver_sql(statement, (array,)).all()


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[str]:
    return [_array(column) for column in zip(*rows, strict=True)] if rows else ["{}"] * width


def _array(values: Iterable[int | str | None]) -> str:
    """Spell a PostgreSQL array of integers, our own code words (which need no quotes) and NULLs.

    psycopg2 would adapt every element by itself, which costs a batch more than all of the deciding.
    """
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
