"""Placing orders in groups: one transaction posts or records all that are given, and tells each what came of it.

A group waits for a wallet that somebody holds, for a moment and once; then those who need that wallet are blocked, and
the others go on. Of a group that fails for any other reason each order is to be tried alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import structlog
from psycopg2.errors import LockNotAvailable, UniqueViolation
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.cache.wallet_cache import Eviction, Evictor
from models.database.faults import is_connection_lost
from models.database.session import Session, Statement
from models.errors import REFUSALS, Refused, ReversalExceeds, WalletFrozen
from models.ledger.groups import Groups, NotTakenError
from models.ledger.posting import (
    OPEN_WALLETS,
    ROW,
    ROW_TYPES,
    Locked,
    NewTransfer,
    array,
    columns,
    find_blocked,
    find_wallets,
    lock_wallets,
    parties_of,
    post_new,
    texts,
)
from models.ledger.settlement import Original, Wallet
from models.ledger.transfer import Order
from observe import metrics

# Which of these ids and keys (by owner) are taken, by its number from 1 on; and the wallets, locked. A key that is used
# while the locks are waited for makes the insert fail. (LATERAL … LIMIT 1 is a look-up by key for each of them. A join
# that was planned while there were few transfers, and an EXISTS, go through all of an index later, each time.)
_LOOK = """
WITH taken AS (
    SELECT number FROM unnest($2) WITH ORDINALITY AS own (id, number),
        LATERAL (SELECT FROM transfers AS t WHERE t.id = own.id LIMIT 1) AS known
    UNION ALL
    SELECT number FROM unnest($3, $4) WITH ORDINALITY AS own (owner, key, number),
        LATERAL (
            SELECT FROM transfers AS t
            WHERE t.idempotency_key = own.key AND coalesce(t.key_owner, t.source, t.destination) = own.owner LIMIT 1
        ) AS used
), held AS (
    SELECT id, balance, version, debits_frozen, credits_frozen FROM wallets WHERE id = ANY ($1)
    ORDER BY id FOR NO KEY UPDATE{locking}  -- as in models/ledger/posting.py
)
SELECT number, NULL AS balance, NULL AS version, NULL AS debits_frozen, NULL AS credits_frozen FROM taken
UNION ALL SELECT * FROM held
"""
_LOOK_TYPES = ("bigint[]", "bigint[]", "bigint[]", "text[]")
_LOCK_ALL = Statement("look_and_lock", _LOOK_TYPES, _LOOK.format(locking=""))
_LOCK_FREE = Statement("look_and_lock_free", _LOOK_TYPES, _LOOK.format(locking=" SKIP LOCKED"))
# What can be refused at once is refused in the round trip that records the rest. In doubt, the insert must meet the
# earlier one, whatever the balance is by now: the job will judge, as it does of what is planned. That becomes due as
# planned or, if that has passed, now: nothing becomes due in the past (frontier.py).
_RECORD = Statement(
    "record_orders",
    (*ROW_TYPES, "boolean[]", "timestamptz[]"),
    """
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace,
    description, reference, metadata, not_before, next_attempt_at)
SELECT new.id, kind, source, destination, amount, key, decode(hash, 'hex'), trace,
    description, reference, CAST(new.metadata AS jsonb), not_before,
    CASE WHEN not_before > statement_timestamp() THEN not_before END
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS new (
    id, kind, source, destination, amount, key, hash, trace, description, reference, metadata, in_doubt, not_before)
LEFT JOIN wallets AS payer ON payer.id = source LEFT JOIN wallets AS payee ON payee.id = destination
WHERE in_doubt OR (payer.id IS NOT NULL AND payee.id IS NOT NULL AND (not_before IS NOT NULL
    OR (payer.balance >= amount AND NOT payer.debits_frozen AND NOT payee.credits_frozen)))
ORDER BY source, key, new.id
ON CONFLICT DO NOTHING RETURNING id
""",
)

# What is given back is locked before any wallet, like everything that is recorded already.
_ORIGINALS = """
SELECT id, amount, coalesce(reversed_amount, 0), status = 'posted' AND reverses IS NULL FROM transfers
WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE{locking}
"""
_LOCK_ORIGINALS = Statement("lock_originals", ("bigint[]",), _ORIGINALS.format(locking=""))
_LOCK_FREE_ORIGINALS = Statement("lock_free_originals", ("bigint[]",), _ORIGINALS.format(locking=" SKIP LOCKED"))

_log = structlog.get_logger("ledger")


class Fate(Enum):
    """What has come of an order so far."""

    OPEN = auto()  # nothing that anybody knows of: whoever tried it was cancelled, or had a rival of it to place
    DONE = auto()  # posted, or recorded
    TAKEN = auto()  # its id or its key stands in the books already, or it is not allowed: to be looked up
    REFUSED = auto()  # a business no
    BLOCKED = auto()  # somebody holds a wallet of it
    ALONE = auto()  # its group failed, or gave up early, and it may not be the one to blame
    FAILED = auto()  # it alone has failed


class Placement:
    """One order under one id.

    ``sent``: this try's commit is on its way. ``in_doubt``: an earlier try's was, and nobody told us what came of it.
    ``balance_cents``: just after it, of whoever gave the order, once it is posted. ``error``: why it was refused, or
    failed. ``held``: the wallets of it that somebody holds, if it is blocked.
    """

    __slots__ = ("balance_cents", "error", "fate", "held", "in_doubt", "order", "parties", "sent", "transfer_id")

    def __init__(self, order: Order, transfer_id: int) -> None:
        self.order = order
        self.transfer_id = transfer_id
        self.parties = {each for each in (order.source, order.destination) if each is not None}
        self.held: set[int] = set()
        self.sent = self.in_doubt = False
        self.fate = Fate.OPEN
        self.balance_cents = 0
        self.error: Refused | DBAPIError | PoolTimeoutError | None = None

    def end(self, fate: Fate, error: Refused | DBAPIError | PoolTimeoutError | None = None) -> None:
        """Tell what came of a try."""
        self.sent, self.fate, self.error = False, fate, error

    def block(self, held: set[int]) -> None:
        """Tell that somebody holds wallets of it."""
        self.end(Fate.BLOCKED)
        self.held = held

    def place(self, groups: Groups["Placement"]) -> None:
        """Have it placed with others.

        Should its leader meet with a defect of ours, that is logged, and is nothing to go by: what its members have
        been told is true, and who has not been told anything is looked for in the books, the leader like the others.

        Raises:
            NotTakenError: its group did not begin in time.
        """
        self.end(Fate.OPEN)
        try:
            groups.join(self)
        except NotTakenError:
            raise
        except Exception:  # noqa: BLE001 - see above
            _log.critical("unexpected error", transfer_id=str(self.transfer_id), fate=self.fate.name, exc_info=True)
        finally:
            # Whoever has led its group may also have been cancelled before he could tell.
            self.in_doubt |= self.sent

    def check(self) -> None:
        """Raise why it was refused, or failed."""
        if self.error is not None:
            raise self.error

    @property
    def new(self) -> NewTransfer:
        """The transfer that it is to become."""
        order, key = self.order, self.order.idempotency_key
        digest = None if key is None else order.request_hash
        return NewTransfer(
            self.transfer_id, order.kind, order.source, order.destination, order.amount_cents,
            key, digest, order.trace, order.details, order.reverses, order.by_administrator,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Poster:
    """Posts groups.

    ``cache``: what others read these wallets through. ``patience_ms``: how long to wait for locks; whoever cannot be
    served by then is blocked. None: as long as the engine has it, and whoever cannot be served by then has failed.
    ``waits``: first of all for the wallets that are known to be held.
    """

    engine: Engine
    cache: Evictor
    patience_ms: int | None = None
    waits: bool = False

    def __call__(self, group: Sequence[Placement]) -> Callable[[], object] | None:
        """Post a group, tell each of it what came of it, and return what is still to be done about that."""
        metrics.group_size.observe(len(group))
        try:
            try:
                return self._post(group, None)
            except DBAPIError as error:
                if not isinstance(error.orig, LockNotAvailable):
                    raise
                return self._post(group, error)
        except (DBAPIError, PoolTimeoutError) as error:
            _tell(group, error, is_impatient=self.patience_ms is not None)
            return None

    def _post(self, group: Sequence[Placement], locked_out: DBAPIError | None) -> Callable[[], object] | None:
        """Post a group, or after it was locked out those of it that need not wait."""
        members = _without_rivals(group)
        for each in members:
            each.sent = False
        with Session(self.engine) as session:
            if self.waits and locked_out is None:
                _wait(session, members)
            session.begin(lock_timeout_ms=self.patience_ms)
            if locked_out is None:
                originals, blocked = _lock_originals(session, members, _LOCK_ORIGINALS), set[int]()
                _open(session, members)
                taken, wallets = _look(session, members, _LOCK_ALL)
            else:
                originals = _lock_originals(session, members, _LOCK_FREE_ORIGINALS)
                blocked = _parties_without(originals, members) | _open_free(session, members)
                session.bound_locks(self.patience_ms)
                taken, wallets = _look(session, members, _LOCK_FREE)
                blocked |= find_blocked(session, [each.new.pending for each in members], wallets)
            ready = []
            for each in members:
                if each in taken:
                    each.end(Fate.TAKEN)
                elif blocked.isdisjoint(each.parties):
                    ready.append(each)
                elif self.patience_ms is None:
                    each.end(Fate.FAILED, locked_out)
                else:
                    each.block(blocked & each.parties)
            news, evict, locked = [each.new for each in ready], partial(self._evict, ready), Locked(wallets, originals)
            posting = post_new(session, news, locked, evict=evict)
        for each in ready:
            if (reason := posting.outcomes[each.transfer_id].reason) is not None:
                each.end(Fate.REFUSED, _refusal(reason, each, locked))
            else:
                each.balance_cents = posting.balances[each.transfer_id]
                each.end(Fate.DONE)
        return partial(self.cache.evict_again, posting.eviction)

    def _evict(self, ready: Sequence[Placement], versions: Mapping[int, int]) -> Eviction:
        """Evict what a group changes, which is the last thing before its commit is on its way."""
        eviction = self.cache.evict(versions)
        for each in ready:
            each.sent = True
        return eviction


def record_together(group: Sequence[Placement], engine: Engine, *, patience_ms: int | None = None) -> None:
    """Record a group as pending, in one statement, and tell each of it what came of it."""
    metrics.group_size.observe(len(group))
    doubts = texts([str(each.in_doubt).lower() for each in group])
    try:
        with Session(engine) as session:
            if patience_ms is not None:
                session.bound_locks(patience_ms)
            rows = columns([each.new.row for each in group], ROW)
            for each in group:
                each.sent = True
            recorded = {row[0] for row in session.rows(_RECORD, *rows, doubts, _plans(group))}
    except (DBAPIError, PoolTimeoutError) as error:
        _tell(group, error, is_impatient=patience_ms is not None)
        return
    for each in group:
        each.end(Fate.DONE if each.transfer_id in recorded else Fate.TAKEN)


def _plans(group: Sequence[Placement]) -> str:
    """Spell when each is planned for; unnest() takes an array that is too short for one that ends in nulls."""
    plans = [each.order.not_before for each in group]
    return texts([None if each is None else each.isoformat() for each in plans]) if any(plans) else "{}"


def _wait(session: Session, members: Sequence[Placement]) -> None:
    """Wait for the wallets that somebody holds, and have nothing else locked meanwhile: others may need it."""
    held = set().union(*(each.held for each in members))
    session.begin()
    if unopened := held & _depositors(members):
        session.first(OPEN_WALLETS, array(sorted(unopened)))
    lock_wallets(session, held)
    session.rollback()


def _open(session: Session, members: Sequence[Placement]) -> None:
    """Open the wallets for deposits."""
    if depositors := _depositors(members):
        session.first(OPEN_WALLETS, array(sorted(depositors)))


def _open_free(session: Session, members: Sequence[Placement]) -> set[int]:
    """Open the wallets for deposits that nobody else is opening just now, and return the others."""
    depositors = _depositors(members)
    fresh = depositors - find_wallets(session, depositors) if depositors else set()
    return {each for each in sorted(fresh) if not session.run_if_free(OPEN_WALLETS, array([each]))}


def _depositors(members: Sequence[Placement]) -> set[int]:
    """Return whose wallets are opened, should they have none. Who gets something back had one."""
    return {each.order.user_id for each in members if each.order.source is None and each.order.reverses is None}


def _lock_originals(session: Session, members: Sequence[Placement], locking: Statement) -> dict[int, Original]:
    """Lock what the reversals among these give back, and return it by them. There is nothing to be had of what is gone.

    Of what somebody holds ``_LOCK_FREE_ORIGINALS`` finds as little.
    """
    reversals = {each.transfer_id: each.order.reverses for each in members if each.order.reverses is not None}
    if not reversals:
        return {}
    found = {row[0]: Original(*row) for row in session.rows(locking, array(sorted(set(reversals.values()))))}
    if locking is _LOCK_FREE_ORIGINALS:
        return {each: found[original_id] for each, original_id in reversals.items() if original_id in found}
    gone = Original(0, 0, 0, is_reversible=False)
    return {each: found.get(original_id, gone) for each, original_id in reversals.items()}


def _parties_without(originals: Mapping[int, Original], members: Sequence[Placement]) -> set[int]:
    """Return the wallets of those whose originals somebody holds."""
    held = [each for each in members if each.order.reverses is not None and each.transfer_id not in originals]
    return set().union(*(each.parties for each in held))


def _refusal(reason: str, each: Placement, locked: Locked) -> Refused:
    """Say why an order is refused."""
    if reason == ReversalExceeds.code and (original := locked.originals.get(each.transfer_id)) is not None:
        return ReversalExceeds(original.left_cents)
    if reason == WalletFrozen.code:
        source = each.order.source
        return WalletFrozen("payer" if source is not None and locked.wallets[source].debits_frozen else "payee")
    return REFUSALS[reason]()


def _look(
    session: Session, members: Sequence[Placement], locking: Statement
) -> tuple[set[Placement], dict[int, Wallet]]:
    """Lock the wallets that there are; return whose id or key is taken, and them."""
    claims = [each for each in members if each.in_doubt or each.order.idempotency_key is not None]
    wanted = [
        (each.transfer_id if each.in_doubt else None, each.order.key_owner, each.order.idempotency_key)
        for each in claims
    ]
    looked_for = [array(parties_of([each.new.pending for each in members])), *columns(wanted, "nnt")]
    if any(each.in_doubt for each in members):
        # Twice: an earlier try that ends while the locks are waited for is seen by the second look only. To the first
        # its money would be gone, and its id free.
        session.first(locking, *looked_for)
    rows = session.rows(locking, *looked_for)
    taken = {claims[row[0] - 1] for row in rows if row[1] is None}
    return taken, {row[0]: Wallet(*row[1:]) for row in rows if row[1] is not None}


def _without_rivals(group: Sequence[Placement]) -> list[Placement]:
    """Leave out whoever has the same owner's key as one before him: there is something to look up afterwards."""
    seen: set[tuple[int, str]] = set()
    members = []
    for each in group:
        if (key := each.order.idempotency_key) is not None:
            if (each.order.key_owner, key) in seen:
                continue
            seen.add((each.order.key_owner, key))
        members.append(each)
    return members


def _tell(group: Sequence[Placement], error: DBAPIError | PoolTimeoutError, *, is_impatient: bool) -> None:
    """Tell a group that it has failed: for want of a connection all of it, or else perhaps because of one of it."""
    is_lost = isinstance(error, DBAPIError) and is_connection_lost(error)
    is_locked_out = is_impatient and isinstance(error, DBAPIError) and isinstance(error.orig, LockNotAvailable)
    for each in group:
        if each.fate is not Fate.OPEN:
            continue  # found out before, and told in a transaction that did nothing
        each.in_doubt |= is_lost and each.sent
        if is_locked_out:
            # Whoever was not even sent met a lock on a whole table; otherwise somebody has a key of one of them.
            if each.sent:
                each.end(Fate.ALONE)
            else:
                each.block(each.parties)
        elif isinstance(error, DBAPIError) and isinstance(error.orig, UniqueViolation) and len(group) == 1:
            each.end(Fate.TAKEN)
        elif len(group) == 1 or isinstance(error, PoolTimeoutError):
            each.end(Fate.FAILED, error)
        else:
            each.end(Fate.ALONE)
