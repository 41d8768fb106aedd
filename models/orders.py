"""Taking orders: each becomes one transfer, whatever is repeated, raced or lost on the way.

Two ways in. :meth:`Orders.execute` posts at once and answers with the balance; :meth:`Orders.accept` makes the
transfer durable and leaves the posting to a job. Both begin by inserting the transfer, under an id drawn beforehand.
That makes a lost reply to a commit harmless: the order is sent again under the same id, and either finds itself or
takes the place that was left free. An insert that meets an unfinished one waits for it, so there is no third case.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Row, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database import is_conflict, is_connection_lost
from models.errors import (
    REFUSALS,
    BalanceInsufficient,
    IdempotencyKeyReused,
    OutcomeUnknown,
    Refused,
    SelfTransferInvalid,
    Unavailable,
    WalletNotFound,
)
from models.ledger import post_locked
from models.settlement import Pending
from models.tables import entries, transfers, wallets
from models.transfer import Acceptance, Order, Receipt

# A conflict (a deadlock, an id drawn twice, a rival that rolled back) is gone at the next try. A server that died
# is back in seconds, and until then the caller had better wait outside: three tries, then 503.
MAX_TRIES = 3

_INSERT = """
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace)
VALUES (%(id)s, %(kind)s, %(source)s, %(destination)s, %(amount)s, %(key)s, %(hash)s, %(trace)s)
ON CONFLICT DO NOTHING RETURNING id
"""
# What can be refused at once is refused in the round trip that records the rest.
_INSERT_IF_COVERED = """
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace)
SELECT %(id)s, %(kind)s, payer.id, payee.id, %(amount)s, %(key)s, %(hash)s, %(trace)s
FROM wallets AS payer, wallets AS payee
WHERE payer.id = %(source)s AND payer.balance >= %(amount)s AND payee.id = %(destination)s
ON CONFLICT DO NOTHING RETURNING id
"""

_Answer = TypeVar("_Answer", Receipt, Acceptance)


class Ids(Protocol):
    """Where transfer ids come from."""

    def next_id(self) -> int:
        """Return an id never returned before."""


class Orders:
    """Takes orders for one database."""

    def __init__(self, engine: Engine, ids: Ids) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._ids = ids

    def execute(self, order: Order) -> Receipt:
        """Post an order now: its money has moved when this returns.

        Raises:
            Refused: a business no; nothing moved, and the idempotency key stays free.
            Unavailable: nothing moved.
            OutcomeUnknown: the reply to the commit was lost, and so was every attempt to find out.
        """
        return self._persist(order, self._execute)

    def accept(self, order: Order) -> Acceptance:
        """Record a transfer for later: it is durable when this returns.

        Raises:
            Refused: what can be seen at once: a transfer to oneself, no such wallet, a balance below the amount.
            Unavailable: nothing was recorded.
            OutcomeUnknown: the reply was lost, and so was every attempt to find out.
        """
        return self._persist(order, self._accept)

    def _persist(self, order: Order, attempt: Callable[["_Attempt"], _Answer]) -> _Answer:
        current = _Attempt(order, self._ids.next_id())
        for _ in range(MAX_TRIES):
            try:
                return attempt(current)
            except _Vanished:
                if not current.in_doubt:  # the id itself may be the one that clashes
                    current = _Attempt(order, self._ids.next_id())
            except PoolTimeoutError as error:
                raise _unfinished(current) from error
            except DBAPIError as error:
                if is_connection_lost(error):
                    current.in_doubt |= current.sent
                elif not is_conflict(error):
                    raise _unfinished(current) from error
        raise _unfinished(current)

    def _execute(self, current: "_Attempt") -> Receipt:
        order, transfer_id = current.begin(), current.transfer_id
        with self._engine.connect() as connection:
            try:
                _check_parties(connection, order)
                if not _insert(connection, _INSERT, current):
                    recorded = _find_recorded(connection, current)
                    return _receipt(connection, recorded, replayed=recorded.id != transfer_id)
                pending = Pending(transfer_id, order.source, order.destination, order.amount_cents)
                posting = post_locked(connection, [pending])
                if reason := posting.outcomes[transfer_id].reason:
                    raise REFUSALS[reason]
            except Refused:
                connection.rollback()
                if (winner := _find_by_key(connection, order)) is None:
                    raise
                return _receipt(connection, winner, replayed=True)
            current.sent = True
            connection.commit()
        return Receipt(transfer_id=transfer_id, balance_cents=posting.wallets[order.user_id].balance_cents)

    def _accept(self, current: "_Attempt") -> Acceptance:
        order, transfer_id = current.begin(), current.transfer_id
        # In doubt, the insert must meet the earlier one, whatever the balance is by now: the job will judge.
        statement = _INSERT if current.in_doubt else _INSERT_IF_COVERED
        with self._autocommit.connect() as connection:
            try:
                _check_parties(connection, order)
                current.sent = True
                if _insert(connection, statement, current):
                    return Acceptance(transfer_id=transfer_id)
                current.sent = False
                if not current.in_doubt:
                    _check_covered(connection, order)
                recorded = _find_recorded(connection, current)
            except Refused:
                if (winner := _find_by_key(connection, order)) is None:
                    raise
                recorded = winner
        return Acceptance(transfer_id=recorded.id, replayed=recorded.id != transfer_id)


class _Attempt:
    """One order under one id.

    ``sent``: this try's commit is on its way. ``in_doubt``: an earlier try's was, and nobody told us what came of it.
    """

    def __init__(self, order: Order, transfer_id: int) -> None:
        self.order = order
        self.transfer_id = transfer_id
        self.sent = False
        self.in_doubt = False

    def begin(self) -> Order:
        self.sent = False
        return self.order


class _Vanished(Exception):
    """What stood in the insert's way is gone again, or is somebody else's transfer: try once more."""


def _unfinished(current: _Attempt) -> OutcomeUnknown | Unavailable:
    return OutcomeUnknown(current.transfer_id) if current.in_doubt else Unavailable()


def _insert(connection: Connection, statement: str, current: _Attempt) -> bool:
    order = current.order
    parameters = {
        "id": current.transfer_id,
        "kind": order.kind.value,
        "source": order.source,
        "destination": order.destination,
        "amount": order.amount_cents,
        "key": order.idempotency_key,
        "hash": order.request_hash if order.idempotency_key is not None else None,
        "trace": order.trace,
    }
    return connection.exec_driver_sql(statement, parameters).first() is not None


def _find_recorded(connection: Connection, current: _Attempt) -> Row[Any]:
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
            transfers.c.amount == order.amount_cents,
        )
        if (row := connection.execute(own).first()) is not None:
            return row
    if (row := _find_by_key(connection, order)) is not None:
        return row
    raise _Vanished


def _find_by_key(connection: Connection, order: Order) -> Row[Any] | None:
    """Return the transfer that this user's idempotency key is bound to.

    Raises:
        IdempotencyKeyReused: it was bound by another request.
    """
    if order.idempotency_key is None:
        return None
    row = connection.execute(
        select(transfers).where(
            func.coalesce(transfers.c.source, transfers.c.destination) == order.user_id,
            transfers.c.idempotency_key == order.idempotency_key,
        )
    ).first()
    if row is not None and bytes(row.request_hash) != order.request_hash:
        raise IdempotencyKeyReused
    return row


def _receipt(connection: Connection, row: Row[Any], *, replayed: bool) -> Receipt:
    """Give the first answer again: the entry still knows the balance just after it."""
    wallet_id, seq = (row.destination, row.destination_seq) if row.source is None else (row.source, row.source_seq)
    balance_cents = connection.execute(
        select(entries.c.balance_after).where(entries.c.wallet_id == wallet_id, entries.c.seq == seq)
    ).scalar_one()
    return Receipt(transfer_id=row.id, balance_cents=balance_cents, replayed=replayed)


def _check_parties(connection: Connection, order: Order) -> None:
    """Refuse a transfer to oneself; that one has no wallet is said first, as everywhere.

    Raises:
        WalletNotFound: the payer has no wallet.
        SelfTransferInvalid: the payer is the payee.
    """
    if order.source == order.destination:
        if connection.execute(select(wallets.c.id).where(wallets.c.id == order.source)).first() is None:
            raise WalletNotFound(order.source)
        raise SelfTransferInvalid


def _check_covered(connection: Connection, order: Order) -> None:
    """Raise what the conditional insert saw.

    Raises:
        WalletNotFound: one of the two has no wallet; the payer's is named first.
        BalanceInsufficient: the posted balance is below the amount.
    """
    parties = [order.source, order.destination]
    rows = connection.execute(select(wallets.c.id, wallets.c.balance).where(wallets.c.id.in_(parties)))
    balances = {row.id: row.balance for row in rows}
    for wallet_id in parties:
        if wallet_id not in balances:
            raise WalletNotFound(wallet_id)
    if balances[order.source] < order.amount_cents:
        raise BalanceInsufficient
