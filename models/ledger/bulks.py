"""Bulks: transfers that one payer sends together. All of them are recorded in one statement, or none.

From then on each is a transfer like any other, with a status, attempts and an end of its own, and the bulk counts how
many have ended how, in the transactions in which they do. Those of an atomic bulk end together: whoever takes up one of
them posts all of them in one transaction, or rejects all of them (``posting.post_bulk``); and when the attempts of one
have run out, they have for all.

The bulk's idempotency key is that of its first transfer: a key stands for one thing, whatever kind of call it came by.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg2.errors import UniqueViolation
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database.engine import transaction
from models.database.faults import is_conflict, is_connection_lost
from models.database.session import Session, Statement, read_rows
from models.errors import BulkNotFound, OutcomeUnknown, Unavailable, WalletNotFound
from models.ledger.keys import find_by_key
from models.ledger.orders import MAX_TRIES, Ids
from models.ledger.posting import columns
from models.ledger.transfer import NO_DETAILS, Details, Status
from models.schema.tables import bulks

CALL = "transfers/bulk/v1"
MAX_ITEMS = 10_000
MAX_ATOMIC_ITEMS = 1_000
# Transfers that a look at what became of a bulk brings.
OUTCOMES = 1_000

_RECORD = Statement(
    "record_bulk",
    (*["bigint"] * 4, "boolean", *["text"] * 3, *["bigint[]"] * 3, *["text[]"] * 3),
    """
WITH bulk AS (
    INSERT INTO bulks (id, user_id, count, amount, atomic) SELECT $1, id, $3, $4, $5 FROM wallets WHERE id = $2
    RETURNING id, user_id
), recorded AS (
    INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace,
        description, reference, metadata, bulk_id)
    SELECT item.id, 'transfer', user_id, destination, item.amount, CASE WHEN number = 1 THEN $6 END,
        CASE WHEN number = 1 THEN decode($7, 'hex') END, $8, description, reference, CAST(metadata AS jsonb), bulk.id
    FROM bulk, unnest($9, $10, $11, $12, $13, $14) WITH ORDINALITY
        AS item (id, destination, amount, description, reference, metadata, number)
)
SELECT id FROM bulk
""",
)
_FIND = Statement(
    "find_bulk",
    ("bigint",),
    """
SELECT id, user_id, count, amount, atomic, count - posted - rejected - failed - canceled, posted, rejected, failed,
    canceled, created_at, completed_at FROM bulks WHERE id = $1
""",
)
# Backwards through the index by which transfers are listed.
_OUTCOMES = Statement(
    "bulk_outcomes",
    ("bigint", "timestamptz", "bigint", "int"),
    """
SELECT id, status, reason, created_at FROM transfers
WHERE bulk_id = $1 AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4
""",
)


class BulkItem(NamedTuple):
    """One transfer of a bulk: to whom, how many cents, and what there is to say of it."""

    destination: int
    amount_cents: int
    details: Details = NO_DETAILS


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOrder:
    """What somebody sends at once: from whose wallet, and what; none of it to himself."""

    user_id: int
    items: Sequence[BulkItem]
    is_atomic: bool = False
    idempotency_key: str | None = None
    trace: str | None = None

    @property
    def amount_cents(self) -> int:
        """The sum of it."""
        return sum(item.amount_cents for item in self.items)

    @property
    def key_owner(self) -> int:
        """Whose idempotency key it has."""
        return self.user_id

    @property
    def request_hash(self) -> bytes:
        """Digest of what the idempotency key is bound to beside the user: the call and the parsed body."""
        facts = [CALL, self.is_atomic, [[*item[:2], *item.details.facts] for item in self.items]]
        return hashlib.sha256(json.dumps(facts).encode()).digest()


class BulkAcceptance(NamedTuple):
    """What accepting a bulk answers: it is durable. ``transfer_ids``: of its items, in order; none of a replay."""

    bulk_id: int
    transfer_ids: Sequence[int] = ()
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Bulk:
    """How a bulk stands: how many of its transfers are pending, and how many have ended how."""

    id: int
    user_id: int
    count: int
    amount_cents: int
    is_atomic: bool
    pending: int
    posted: int
    rejected: int
    failed: int
    canceled: int
    created_at: datetime
    completed_at: datetime | None


class Outcome(NamedTuple):
    """What became of one transfer of a bulk; ``reason``: why it was rejected, or has failed."""

    transfer_id: int
    status: Status
    reason: str | None


class Bulks:
    """Takes bulks for one database, and tells of them."""

    def __init__(self, engine: Engine, ids: Ids) -> None:
        """Connect to nothing yet."""
        self._engine = engine
        self._ids = ids

    def accept(self, order: BulkOrder) -> BulkAcceptance:
        """Record all of a bulk for later: it is durable when this returns.

        Raises:
            WalletNotFound: the payer has no wallet.
            IdempotencyKeyReused: the key was used for something else.
            Unavailable: nothing was recorded.
            OutcomeUnknown: the reply was lost, and could not be looked up.
        """
        acceptance, in_doubt = self._draw(order), False
        for _ in range(MAX_TRIES):
            try:
                return self._record(order, acceptance)
            except PoolTimeoutError as error:
                raise _unfinished(acceptance, in_doubt=in_doubt) from error
            except DBAPIError as error:
                in_doubt |= is_connection_lost(error)
                if isinstance(error.orig, UniqueViolation):
                    if (known := self._find_known(order, acceptance, in_doubt=in_doubt)) is not None:
                        return known
                    acceptance = self._draw(order)  # an id was drawn twice
                elif not is_connection_lost(error) and not is_conflict(error):
                    raise _unfinished(acceptance, in_doubt=in_doubt) from error
        raise _unfinished(acceptance, in_doubt=in_doubt)

    def find(self, bulk_id: int, *, seen_by: int | None) -> Bulk:
        """Return how a bulk stands.

        Args:
            bulk_id: which.
            seen_by: the user who asks, whose it must be; None for an administrator.

        Raises:
            BulkNotFound: it does not exist, or not for this user.
            Unavailable: the database cannot be reached.
        """
        rows = read_rows(self._engine, _FIND, bulk_id)
        if not rows or seen_by not in {None, rows[0][1]}:
            raise BulkNotFound(bulk_id)
        return Bulk(*rows[0])

    def outcomes(self, bulk: Bulk) -> Iterator[Outcome]:
        """Yield what became of a bulk's transfers, in their order; those that have left for an archive are missing.

        Raises:
            Unavailable: the database cannot be reached.
        """
        place = (bulk.created_at, 0)
        while rows := read_rows(self._engine, _OUTCOMES, bulk.id, *place, OUTCOMES):
            for transfer_id, status, reason, _ in rows:
                yield Outcome(transfer_id, Status(status), reason)
            place = (rows[-1][3], rows[-1][0])

    def _draw(self, order: BulkOrder) -> BulkAcceptance:
        return BulkAcceptance(self._ids.next_id(), [self._ids.next_id() for _ in order.items])

    def _record(self, order: BulkOrder, acceptance: BulkAcceptance) -> BulkAcceptance:
        key = order.idempotency_key
        digest = None if key is None else order.request_hash.hex()
        rows = [
            (transfer_id, *item[:2], *item.details.row)
            for transfer_id, item in zip(acceptance.transfer_ids, order.items, strict=True)
        ]
        facts = (acceptance.bulk_id, order.user_id, len(order.items), order.amount_cents, order.is_atomic)
        with Session(self._engine) as session:
            if not session.rows(_RECORD, *facts, key, digest, order.trace, *columns(rows, "nnnttt")):
                raise WalletNotFound(order.user_id)
        return acceptance

    def _find_known(self, order: BulkOrder, acceptance: BulkAcceptance, *, in_doubt: bool) -> BulkAcceptance | None:
        """Return what stood in the way: this very bulk, from an earlier try, or what has its key.

        Raises:
            IdempotencyKeyReused: that is something else.
            Unavailable, OutcomeUnknown: it could not be looked up.
        """
        own = select(bulks.c.id).where(bulks.c.id == acceptance.bulk_id, bulks.c.user_id == order.user_id)
        try:
            with transaction(self._engine) as connection:
                first = find_by_key(connection, order)
                if first is not None and first.bulk_id != acceptance.bulk_id:
                    return BulkAcceptance(first.bulk_id, replayed=True)
                return None if connection.execute(own).first() is None else acceptance
        except Unavailable as error:
            raise _unfinished(acceptance, in_doubt=in_doubt) from error


def _unfinished(acceptance: BulkAcceptance, *, in_doubt: bool) -> OutcomeUnknown | Unavailable:
    return OutcomeUnknown(acceptance.transfer_ids[0]) if in_doubt else Unavailable()
