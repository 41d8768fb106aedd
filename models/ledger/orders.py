"""Taking orders: each becomes one transfer, whatever is repeated, raced or lost on the way.

Two ways in. :meth:`Orders.execute` posts at once and answers with the balance; :meth:`Orders.accept` makes the
transfer durable and leaves the posting to a job. What is asked for at the same time is done together, in one
transaction (``groups.py``, ``placement.py``). Each order has an id, drawn beforehand, under which it is recorded. That
makes a lost reply to a commit harmless: the order is sent again under the same id, and either finds itself or takes the
place that was left free.

Nobody pays for his neighbours: who needs a wallet that somebody holds waits for it among others like him, and so does
everybody who comes for the same wallets meanwhile; who may be to blame for a fault is tried alone.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, Engine, Row, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.cache.wallet_cache import Evictor, NobodyCaches
from models.database.engine import LOCK_TIMEOUT
from models.database.faults import is_conflict, is_connection_lost
from models.errors import (
    BalanceInsufficient,
    OutcomeUnknown,
    Refused,
    SelfTransferInvalid,
    Unavailable,
    WalletFrozen,
    WalletNotFound,
    WalletServiceError,
)
from models.ledger.groups import Groups, NotTakenError
from models.ledger.keys import find_by_key
from models.ledger.placement import Fate, Placement, Poster, record_together
from models.ledger.transfer import REST_CENTS, Acceptance, Order, Receipt
from models.schema.tables import entries, receipts, transfers, wallets

# A conflict (a deadlock, an id drawn twice, a rival that rolled back) is gone at the next try. A server that died
# is back in seconds, and until then the caller had better wait outside: three tries, then 503.
MAX_TRIES = 3
# More than ever wait at a time in a process that is not overrun, and few enough for one statement.
MOST_TOGETHER = 100
# How long a group waits for locks: longer than a few others take to post under the same wallet.
GROUP_PATIENCE_MS = 250
# How long an order waits for its group to begin.
PATIENCE_S = 2.0
# Orders that are tried alone at a time. Each may hold a connection until its lock timeout.
ALONE_AT_ONCE = 2

_log = structlog.get_logger("ledger")

_Answer = TypeVar("_Answer", Receipt, Acceptance)
_Found = TypeVar("_Found")


class Ids(Protocol):
    """Where transfer ids come from."""

    def next_id(self) -> int:
        """Return an id never returned before."""


class Orders:
    """Takes orders for one database."""

    def __init__(self, engine: Engine, ids: Ids, cache: Evictor | None = None) -> None:
        """Connect to nothing yet.

        Args:
            engine: of the database.
            ids: for the transfers.
            cache: what others read these wallets through; None: nothing caches them.
        """
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._ids = ids
        patience_ms = min(GROUP_PATIENCE_MS, engine.get_execution_options()[LOCK_TIMEOUT] or GROUP_PATIENCE_MS)
        post = Poster(engine, cache or NobodyCaches())
        record = partial(record_together, engine=engine)
        together = partial(Groups[Placement], most=MOST_TOGETHER, patience_s=PATIENCE_S)
        alone = partial(Groups[Placement], most=1, at_once=ALONE_AT_ONCE, patience_s=PATIENCE_S)
        self._posting, self._posting_alone = together(replace(post, patience_ms=patience_ms)), alone(post)
        self._recording, self._recording_alone = together(partial(record, patience_ms=patience_ms)), alone(record)
        # Those who need wallets that somebody holds, and which these are.
        self._held_up = together(replace(post, waits=True))
        self._waited_for: Counter[int] = Counter()
        self._counting = threading.Lock()

    def execute(self, order: Order) -> Receipt:
        """Post an order now: its money has moved when this returns.

        Raises:
            Refused: a business no; nothing moved, and the idempotency key stays free.
            Unavailable: nothing moved.
            OutcomeUnknown: the reply to the commit was lost, or something unforeseen came after it, and so did every
                attempt to find out.
        """
        return self._persist(order, self._execute)

    def accept(self, order: Order) -> Acceptance:
        """Record a transfer for later: it is durable when this returns.

        Raises:
            Refused: what can be seen at once: a transfer to oneself, no such wallet, a frozen one, a balance below the
                amount (which is not looked at if the transfer is planned, nor is what is frozen).
            Unavailable: nothing was recorded.
            OutcomeUnknown: as for :meth:`execute`.
        """
        return self._persist(order, self._accept)

    def _persist(self, order: Order, attempt: Callable[[Placement, bool], _Answer]) -> _Answer:
        current = Placement(order, self._ids.next_id())
        for number in range(MAX_TRIES):
            try:
                return attempt(current, number == 0)
            except _Vanished:
                if not current.in_doubt:  # the id itself may be the one that clashes
                    current = Placement(order, self._ids.next_id())
            except (NotTakenError, PoolTimeoutError) as error:
                raise _unfinished(current) from error
            except DBAPIError as error:
                if not is_connection_lost(error) and not is_conflict(error):
                    raise _unfinished(current) from error
            except WalletServiceError:
                raise
            except Exception as error:
                # A defect of ours, in what comes after the placing.
                _log.critical("unexpected error", transfer_id=str(current.transfer_id), exc_info=True)
                raise _unfinished(current) from error
        raise _unfinished(current)

    def _execute(self, current: Placement, is_first: bool) -> Receipt:  # noqa: FBT001 - as _persist calls it
        order = current.order
        try:
            self._check_parties(order)
            self._post(current, is_first=is_first)
        except Refused:
            if order.idempotency_key is None:
                raise
            if (replay := self._look(lambda connection: _find_replay(connection, order))) is None:
                raise
            return replay
        if current.fate is Fate.DONE:
            return Receipt(transfer_id=current.transfer_id, balance_cents=current.balance_cents)
        return self._look(lambda connection: _found(connection, current))

    def _accept(self, current: Placement, is_first: bool) -> Acceptance:  # noqa: FBT001 - as _persist calls it
        order = current.order
        try:
            self._check_parties(order)
            self._record(current, is_first=is_first)
            if current.fate is Fate.DONE:
                return Acceptance(transfer_id=current.transfer_id)
            recorded = self._look(lambda connection: _accepted(connection, current))
        except Refused:
            if (winner := self._look(lambda connection: find_by_key(connection, order))) is None:
                raise
            recorded = winner
        return Acceptance(transfer_id=recorded.id, replayed=recorded.id != current.transfer_id)

    def _post(self, current: Placement, *, is_first: bool) -> None:
        if is_first:
            current.held = current.parties & self._waited_for.keys()
            if not current.held:
                current.place(self._posting)
            if current.held:
                self._wait_for_wallets(current)
        if not is_first or current.fate is Fate.ALONE:
            current.place(self._posting_alone)
        current.check()

    def _record(self, current: Placement, *, is_first: bool) -> None:
        if is_first:
            current.place(self._recording)
        if not is_first or current.fate is Fate.ALONE:
            current.place(self._recording_alone)
        current.check()

    def _wait_for_wallets(self, current: Placement) -> None:
        """Wait for wallets that somebody holds, and let others who come for them do so, too."""
        held = current.held
        with self._counting:
            self._waited_for.update(held)
        try:
            current.place(self._held_up)
        finally:
            with self._counting:
                self._waited_for.subtract(held)
                for each in held:
                    if not self._waited_for[each]:
                        del self._waited_for[each]

    def _check_parties(self, order: Order) -> None:
        if order.source == order.destination:
            self._look(lambda connection: _refuse_self_transfer(connection, order))

    def _look(self, find: Callable[[Connection], _Found]) -> _Found:
        """Read something off the ways that most requests take."""
        with self._autocommit.connect() as connection:
            return find(connection)


class _Vanished(Exception):
    """What stood in the insert's way is gone again, or is somebody else's transfer: try once more."""


def _unfinished(current: Placement) -> OutcomeUnknown | Unavailable:
    is_placed = current.in_doubt or current.fate is Fate.DONE
    return OutcomeUnknown(current.transfer_id) if is_placed else Unavailable()


def _accepted(connection: Connection, current: Placement) -> Row[Any]:
    """Return what was in the way of an insert that recorded nothing.

    Raises:
        Refused: nothing was: the insert saw what does not allow the transfer.
        _Vanished: see :func:`_find_recorded`.
    """
    if not current.in_doubt:
        _check_covered(connection, current.order)
    return _find_recorded(connection, current)


def _found(connection: Connection, current: Placement) -> Receipt:
    recorded = _find_recorded(connection, current)
    return _receipt(connection, recorded, replayed=recorded.id != current.transfer_id)


def _find_replay(connection: Connection, order: Order) -> Receipt | None:
    winner = find_by_key(connection, order)
    return None if winner is None else _receipt(connection, winner, replayed=True)


def _find_recorded(connection: Connection, current: Placement) -> Row[Any]:
    """Return the row that was in the insert's way: our own from an earlier try, or the key's first use.

    Raises:
        IdempotencyKeyReused: the key's first use was another request.
        _Vanished: neither; a rival that rolled back, or a Snowflake that clashed.
    """
    order = current.order
    if current.in_doubt:
        own = select(transfers).where(
            transfers.c.id == current.transfer_id,
            transfers.c.source.is_not_distinct_from(order.source),
            transfers.c.destination.is_not_distinct_from(order.destination),
            transfers.c.amount == (order.amount_cents if order.amount_cents != REST_CENTS else transfers.c.amount),
            transfers.c.reverses.is_not_distinct_from(order.reverses),
        )
        if (row := connection.execute(own).first()) is not None:
            return row
    if (row := find_by_key(connection, order)) is not None:
        return row
    raise _Vanished


def _receipt(connection: Connection, row: Row[Any], *, replayed: bool) -> Receipt:
    """Give the first answer again: the entry still knows the balance just after it, or what is kept since it left."""
    wallet_id, seq = (row.destination, row.destination_seq) if row.source is None else (row.source, row.source_seq)
    entry = select(entries.c.balance_after).where(entries.c.wallet_id == wallet_id, entries.c.seq == seq)
    kept = select(receipts.c.balance).where(receipts.c.transfer_id == row.id)
    balance_cents = connection.execute(entry.union_all(kept)).scalar_one()
    return Receipt(transfer_id=row.id, balance_cents=balance_cents, replayed=replayed)


def _refuse_self_transfer(connection: Connection, order: Order) -> NoReturn:
    """Refuse a transfer to oneself; that one has no wallet is said first, as everywhere.

    Raises:
        WalletNotFound: the payer has no wallet.
        SelfTransferInvalid: the payer is the payee.
    """
    if connection.execute(select(wallets.c.id).where(wallets.c.id == order.source)).first() is None:
        raise WalletNotFound(order.source)
    raise SelfTransferInvalid


def _check_covered(connection: Connection, order: Order) -> None:
    """Raise what the conditional insert saw.

    Raises:
        WalletNotFound: one of the two has no wallet; the payer's is named first.
        WalletFrozen: the payer's wallet is frozen for debits, or the payee's for credits, and the transfer is not
            planned.
        BalanceInsufficient: the posted balance is below the amount, and the transfer is not planned.
    """
    parties = [order.source, order.destination]
    rows = connection.execute(select(wallets).where(wallets.c.id.in_(parties)))
    found = {row.id: row for row in rows}
    for wallet_id in parties:
        if wallet_id not in found:
            raise WalletNotFound(wallet_id)
    if order.not_before is not None:
        return
    if found[order.source].debits_frozen:
        raise WalletFrozen("payer")
    if found[order.destination].credits_frozen:
        raise WalletFrozen("payee")
    if found[order.source].balance < order.amount_cents:
        raise BalanceInsufficient
