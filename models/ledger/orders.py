"""Taking orders: each becomes one transfer, whatever is repeated, raced or lost on the way.

Two ways in. :meth:`Orders.execute` posts at once and answers with the balance; :meth:`Orders.accept` makes the
transfer durable and leaves the posting to a job. Both begin by inserting the transfer, under an id drawn beforehand.
That makes a lost reply to a commit harmless: the order is sent again under the same id, and either finds itself or
takes the place that was left free. An insert that meets an unfinished one waits for it, so there is no third case.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Row, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.cache.wallet_cache import Evictor, NobodyCaches
from models.database.faults import is_conflict, is_connection_lost
from models.database.session import Session, Statement
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
from models.ledger.posting import Posting, post_alone
from models.ledger.settlement import Pending, Wallet
from models.ledger.transfer import Acceptance, Order, Receipt
from models.schema.tables import entries, transfers, wallets

# A conflict (a deadlock, an id drawn twice, a rival that rolled back) is gone at the next try. A server that died
# is back in seconds, and until then the caller had better wait outside: three tries, then 503.
MAX_TRIES = 3

_TYPES = ("bigint", "text", "bigint", "bigint", "bigint", "text", "bytea", "text")
# The order is placed and its wallets are locked in one statement, in this order: whoever stands in the insert's way is
# waited for before a wallet is locked, or two could wait for each other.
_PLACE = Statement(
    "place_order",
    _TYPES,
    """
WITH placed AS (
    INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id
), locked AS (
    SELECT id, balance, version FROM wallets WHERE id IN ($3, $4) AND EXISTS (SELECT FROM placed)
    ORDER BY id FOR NO KEY UPDATE  -- as in models/ledger/posting.py
)
SELECT locked.id, balance, version FROM placed LEFT JOIN locked ON true
""",
)
_INSERT = Statement(
    "accept_order",
    _TYPES,
    """
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id
""",
)
# What can be refused at once is refused in the round trip that records the rest.
_INSERT_IF_COVERED = Statement(
    "accept_order_if_covered",
    _TYPES,
    """
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace)
SELECT $1, $2, payer.id, payee.id, $5, $6, $7, $8 FROM wallets AS payer, wallets AS payee
WHERE payer.id = $3 AND payer.balance >= $5 AND payee.id = $4
ON CONFLICT DO NOTHING RETURNING id
""",
)

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
        self._engine = engine
        self._cache = cache or NobodyCaches()
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
        try:
            self._check_parties(order)
            with Session(self._engine) as session:
                session.begin()
                rows = session.rows(_PLACE, *current.parameters)
                posting = self._post(session, current, rows) if rows else None
        except Refused:
            if (replay := self._look(lambda connection: _find_replay(connection, order))) is None:
                raise
            return replay
        if posting is None:
            return self._look(lambda connection: _found(connection, current))
        if not posting.kept:
            self._cache.evict_again(posting.versions)
        return Receipt(transfer_id=transfer_id, balance_cents=posting.wallets[order.user_id].balance_cents)

    def _post(self, session: Session, current: "_Attempt", rows: Sequence[tuple[Any, ...]]) -> Posting:
        """Post what has just been placed, and commit.

        Raises:
            Refused: the books do not allow it.
        """
        order = current.order
        wallets = {wallet_id: Wallet(*wallet) for wallet_id, *wallet in rows if wallet_id is not None}
        pending = Pending(current.transfer_id, order.source, order.destination, order.amount_cents)
        current.sent = True
        posting = post_alone(session, pending, wallets, self._cache.evict)
        if reason := posting.outcomes[current.transfer_id].reason:
            raise REFUSALS[reason]
        return posting

    def _accept(self, current: "_Attempt") -> Acceptance:
        order, transfer_id = current.begin(), current.transfer_id
        # In doubt, the insert must meet the earlier one, whatever the balance is by now: the job will judge.
        statement = _INSERT if current.in_doubt else _INSERT_IF_COVERED
        try:
            self._check_parties(order)
            with Session(self._engine) as session:
                current.sent = True
                is_recorded = bool(session.rows(statement, *current.parameters))
            if is_recorded:
                return Acceptance(transfer_id=transfer_id)
            current.sent = False
            recorded = self._look(lambda connection: _accepted(connection, current))
        except Refused:
            if (winner := self._look(lambda connection: _find_by_key(connection, order))) is None:
                raise
            recorded = winner
        return Acceptance(transfer_id=recorded.id, replayed=recorded.id != transfer_id)

    def _check_parties(self, order: Order) -> None:
        if order.source == order.destination:
            self._look(lambda connection: _refuse_self_transfer(connection, order))

    def _look(self, find: Callable[[Connection], _Found]) -> _Found:
        """Read something off the ways that most requests take."""
        with self._autocommit.connect() as connection:
            return find(connection)


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

    @property
    def parameters(self) -> tuple[object, ...]:
        order, key = self.order, self.order.idempotency_key
        digest = order.request_hash if key is not None else None
        return (
            self.transfer_id, order.kind.value, order.source, order.destination, order.amount_cents, key, digest,
            order.trace,
        )  # fmt: skip


class _Vanished(Exception):
    """What stood in the insert's way is gone again, or is somebody else's transfer: try once more."""


def _unfinished(current: _Attempt) -> OutcomeUnknown | Unavailable:
    return OutcomeUnknown(current.transfer_id) if current.in_doubt else Unavailable()


def _accepted(connection: Connection, current: _Attempt) -> Row[Any]:
    """Return what was in the way of an insert that recorded nothing.

    Raises:
        Refused: nothing was: the insert saw what does not allow the transfer.
        _Vanished: see :func:`_find_recorded`.
    """
    if not current.in_doubt:
        _check_covered(connection, current.order)
    return _find_recorded(connection, current)


def _found(connection: Connection, current: _Attempt) -> Receipt:
    recorded = _find_recorded(connection, current)
    return _receipt(connection, recorded, replayed=recorded.id != current.transfer_id)


def _find_replay(connection: Connection, order: Order) -> Receipt | None:
    winner = _find_by_key(connection, order)
    return None if winner is None else _receipt(connection, winner, replayed=True)


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
