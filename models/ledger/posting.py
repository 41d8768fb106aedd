"""Posting: the one place that writes balances and entries.

Deposits, withdrawals, transfers that are waited for, batches of jobs and imports all come here, and take row locks in
the same order: first the transfers that are recorded already, by id; then wallets, new ones before others, by id; keys
of idempotency last, with the insert that is followed by the commit. Two batches that meet therefore wait for each
other, and never in a circle.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from models.cache.kept_evictions import keeping
from models.cache.wallet_cache import Evict, Eviction, nobody_caches
from models.database.session import Session, Statement
from models.ledger.settlement import Decision, Original, Pending, Settlement, Wallet, settle, settle_whole
from models.ledger.transfer import ADMINISTRATORS, NO_DETAILS, Details, Kind, Status

COMMIT = "COMMIT"
# The columns of a new transfer: numbers and texts, see columns().
ROW = "ntnnntttttt"

ROW_TYPES = tuple("bigint[]" if kind == "n" else "text[]" for kind in ROW)
_NO_ROW = NO_DETAILS.row

# FOR NO KEY UPDATE, not FOR UPDATE: an insert elsewhere that merely refers to a row takes KEY SHARE on it, and the two
# dead-locked 228 of 240 concurrent transfers in a trial; with NO KEY UPDATE none.
# What is pending is told apart after it is locked, or PostgreSQL may look for it among all that is pending. What is
# planned for later is left alone, whoever has brought it here.
_LOCK = """
WITH locked AS (
    SELECT id, source, destination, amount, trace, bulk_id, not_before, status FROM transfers
    WHERE {which} ORDER BY id FOR NO KEY UPDATE{locking}
), batch AS (
    SELECT id, source, destination, amount, trace, bulk_id, not_before FROM locked
    WHERE status = 'pending' AND (not_before IS NULL OR not_before <= statement_timestamp()){only_if}
), held AS (
    SELECT id, balance, version, debits_frozen, credits_frozen FROM wallets
    WHERE id IN (SELECT source FROM batch UNION SELECT destination FROM batch)
    ORDER BY id FOR NO KEY UPDATE{locking}
)
SELECT id, source, destination, amount, trace, bulk_id, NULL AS balance, NULL AS version, NULL AS debits_frozen,
    NULL AS credits_frozen, not_before FROM batch
UNION ALL SELECT id, NULL, NULL, NULL, NULL, NULL, balance, version, debits_frozen, credits_frozen, NULL FROM held
"""
_OF_BATCH = {"which": "id = ANY ($1)", "only_if": ""}
_LOCK_ALL = Statement("lock_batch", ("bigint[]",), _LOCK.format(**_OF_BATCH, locking=""))
_LOCK_FREE = Statement("lock_free_of_batch", ("bigint[]",), _LOCK.format(**_OF_BATCH, locking=" SKIP LOCKED"))
# All of it is pending, or it is left alone.
_LOCK_BULK = Statement(
    "lock_bulk",
    ("bigint",),
    _LOCK.format(
        which="bulk_id = $1", only_if=" AND NOT EXISTS (SELECT FROM locked WHERE status <> 'pending')", locking=""
    ),
)
_FIND_ATOMIC = Statement("find_atomic", ("bigint[]",), "SELECT id FROM bulks WHERE id = ANY ($1) AND atomic")
_LOCK_WALLETS = Statement(
    "lock_wallets",
    ("bigint[]",),
    """
SELECT id, balance, version, debits_frozen, credits_frozen FROM wallets
WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE
""",
)
_FIND_WALLETS = Statement("find_wallets", ("bigint[]",), "SELECT id FROM wallets WHERE id = ANY ($1)")
OPEN_WALLETS = Statement(
    "open_wallets",
    ("bigint[]",),
    "INSERT INTO wallets (id) SELECT * FROM unnest($1) ORDER BY 1 ON CONFLICT DO NOTHING RETURNING id",
)
_FIND_OUTCOMES = Statement(
    "find_outcomes", ("bigint[]",), "SELECT id, status, reason FROM transfers WHERE id = ANY ($1)"
)
# One statement writes a whole batch, and a row that tells of it (events.py). Its timestamp is taken and that row's id
# drawn while the locks are held, so a wallet's entries are in order of time and of events as well as of seq.
# (ANY (ARRAY[…]) can only be looked up. For an equation PostgreSQL would also compare each row of an index with each
# that is new, if it made its plan while there were two.)
_WRITE_TYPES = (*["bigint[]"] * 7, "smallint[]", *["bigint[]"] * 2)
_WRITE = """
WITH moved AS (
    UPDATE wallets AS w SET balance = new.balance, version = new.version
    FROM unnest($1, $2, $3) AS new (id, balance, version) WHERE w.id = ANY (ARRAY[new.id])
), written AS (
    INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after, created_at)
    SELECT new.*, statement_timestamp() FROM unnest($4, $5, $6, $7, $8, $9, $10) AS new
), told AS (
    INSERT INTO event_batches (transfers, created_at) VALUES ($11, statement_timestamp())
)
"""
_RECORDED = """{also}
UPDATE transfers AS t
SET status = CASE WHEN new.reason IS NULL THEN 'posted' ELSE 'rejected' END,
    reason = new.reason, source_seq = new.source_seq, destination_seq = new.destination_seq,
    attempts = attempts + 1, next_attempt_at = NULL, completed_at = statement_timestamp()
FROM unnest($11, $12, $13, $14) AS new (id, reason, source_seq, destination_seq)
WHERE t.id = ANY (ARRAY[new.id])
"""
_RECORDED_TYPES = (*_WRITE_TYPES, "bigint[]", "text[]", "bigint[]", "bigint[]")
_WRITE_RECORDED = Statement("write_recorded", _RECORDED_TYPES, _WRITE + _RECORDED.format(also=""))
# A bulk counts what becomes of its transfers in the transaction in which it does. Whoever locks several bulks locks
# them in the order of their ids, after everything else.
_WRITE_OF_BULKS = Statement(
    "write_of_bulks",
    (*_RECORDED_TYPES, *["bigint[]"] * 3),
    _WRITE
    + _RECORDED.format(
        also=""", kept AS (
    SELECT id FROM bulks WHERE id = ANY ($15) ORDER BY id FOR NO KEY UPDATE
), counted AS (
    UPDATE bulks AS b SET posted = b.posted + new.posted, rejected = b.rejected + new.rejected,
        completed_at = CASE WHEN b.posted + new.posted + b.rejected + new.rejected + b.failed + b.canceled = b.count
            THEN statement_timestamp() END
    FROM unnest($15, $16, $17) AS new (id, posted, rejected) JOIN kept USING (id) WHERE b.id = ANY (ARRAY[new.id])
)"""
    ),
)
# What nobody has waited for as pending is recorded as posted at once. A key that somebody else has used meanwhile
# fails the statement, and the commit with it.
_NEW = """{also}
INSERT INTO transfers (id, kind, source, destination, amount, idempotency_key, request_hash, trace,
    description, reference, metadata, source_seq, destination_seq, status, attempts, completed_at{column})
SELECT id, kind, source, destination, amount, key, decode(hash, 'hex'), trace,
    description, reference, CAST(metadata AS jsonb), source_seq, destination_seq, 'posted', 1, statement_timestamp()
    {column}
FROM unnest($11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23{parameter})
    AS new (id, kind, source, destination, amount, key, hash, trace, description, reference, metadata,
        source_seq, destination_seq{column})
ORDER BY coalesce({owner}source, destination), key
"""
_NEW_TYPES = (*_WRITE_TYPES, *ROW_TYPES, *["bigint[]"] * 2)
_WRITE_NEW = Statement("write_new", _NEW_TYPES, _WRITE + _NEW.format(also="", column="", parameter="", owner=""))
_WRITE_REVERSALS = Statement(
    "write_reversals",
    (*_NEW_TYPES, *["bigint[]"] * 4),
    _WRITE
    + _NEW.format(
        also=""", given_back AS (
    UPDATE transfers AS t SET reversed_amount = original.cents
    FROM unnest($26, $27) AS original (id, cents) WHERE t.id = ANY (ARRAY[original.id])
)""",
        column=", reverses, key_owner",
        parameter=", $24, $25",
        owner="key_owner, ",
    ),
)


class NewTransfer(NamedTuple):
    """A transfer to record and to post at once."""

    id: int
    kind: Kind
    source: int | None
    destination: int | None
    amount_cents: int
    idempotency_key: str | None = None
    request_hash: bytes | None = None
    trace: str | None = None
    details: Details = NO_DETAILS
    reverses: int | None = None
    by_administrator: bool = False

    @property
    def pending(self) -> Pending:
        """What there is to decide."""
        return Pending(self.id, self.source, self.destination, self.amount_cents, self.by_administrator)

    @property
    def key_owner(self) -> int | None:
        """Who has its key, if that is not who gives the order."""
        return ADMINISTRATORS if self.by_administrator and self.idempotency_key is not None else None

    @property
    def row(self) -> tuple[int | str | None, ...]:
        """Its columns, of the kinds in :data:`ROW`."""
        digest = None if self.request_hash is None else self.request_hash.hex()
        order = (self.id, self.kind.value, *self.pending[1:4], self.idempotency_key, digest, self.trace)
        return (*order, *(_NO_ROW if self.details is NO_DETAILS else self.details.row))


class Locked(NamedTuple):
    """What a transaction has locked for new transfers.

    ``wallets``: those of their parties that exist. ``originals``: by the reversals among them, what each gives back.
    """

    wallets: Mapping[int, Wallet]
    originals: Mapping[int, Original] = MappingProxyType({})


class Outcome(NamedTuple):
    """How a transfer stands once its batch is done."""

    status: Status
    reason: str | None = None


@dataclass(slots=True)
class Posting:
    """What one call of :func:`post` did, before its commit.

    ``outcomes`` has every transfer that exists, those that were final before too; ``decided`` are those that were not;
    ``wallets`` has those that changed; ``traces`` the W3C traceparents of those that were decided now; ``eviction`` is
    to be looked after once more. ``balances``: of new transfers only, the giver's cents just after each. ``planned``:
    for when those were planned that were decided now, of those that were. ``apart``: the transfers that were left
    pending, since they are of an atomic bulk, by that (:func:`post_bulk`).
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    wallets: dict[int, Wallet] = field(default_factory=dict)
    traces: dict[int, str] = field(default_factory=dict)
    decided: list[int] = field(default_factory=list)
    eviction: Eviction = field(default_factory=lambda: Eviction({}))
    balances: dict[int, int] = field(default_factory=dict)
    apart: dict[int, list[int]] = field(default_factory=dict)
    planned: dict[int, datetime] = field(default_factory=dict)

    @property
    def versions(self) -> dict[int, int]:
        """The versions that the wallets which changed have now."""
        return {wallet_id: wallet.version for wallet_id, wallet in self.wallets.items()}


def post(
    session: Session, transfer_ids: Sequence[int], *, wait_for_locks: bool = True, evict: Evict = nobody_caches
) -> Posting:
    """Post a batch of recorded transfers in a transaction of its own: it is true when this returns.

    A transfer that is final already is left alone and its stored outcome returned, which is what makes it safe
    to run a job twice. So is one that is planned for later, as pending.

    Args:
        session: in no transaction.
        transfer_ids: in any order; repetitions and ids of no transfer do no harm.
        wait_for_locks: False leaves out, as still pending, every transfer that would have to wait for a lock.
        evict: drops cached reads of the wallets that change, while their locks are held.

    Raises:
        psycopg2.Error: a technical fault; the session undoes what was begun, and puts it as SQLAlchemy would. It says
            nothing about which transfer is to blame.
    """
    session.begin()
    posting = post_within(session, transfer_ids, wait_for_locks=wait_for_locks, evict=evict)
    if not posting.decided:
        session.rollback()
    if missing := [transfer_id for transfer_id in transfer_ids if transfer_id not in posting.outcomes]:
        for transfer_id, status, reason in session.rows(_FIND_OUTCOMES, array(missing)):
            posting.outcomes[transfer_id] = Outcome(Status(status), reason)
    return posting


def post_within(
    session: Session,
    transfer_ids: Sequence[int],
    *,
    wait_for_locks: bool = True,
    evict: Evict = nobody_caches,
    then: str = COMMIT,
) -> Posting:
    """Do what :func:`post` does, in a transaction that has begun: it ends as ``then`` says, if anything was decided."""
    rows = session.rows(_LOCK_ALL if wait_for_locks else _LOCK_FREE, array(transfer_ids))
    batch = [Pending(*row[:4]) for row in rows if row[6] is None]
    wallets = {row[0]: Wallet(*row[6:10]) for row in rows if row[6] is not None}
    bulks = {row[0]: row[5] for row in rows if row[5] is not None}
    apart = _of_atomic(session, bulks) if bulks else {}
    if apart:
        batch = [transfer for transfer in batch if bulks.get(transfer.id) not in apart]
    wallets |= _opened(session, batch, wallets)
    if not wait_for_locks:
        blocked = find_blocked(session, batch, wallets)
        batch = [transfer for transfer in batch if not blocked & {transfer.source, transfer.destination}]
    if not batch:
        return Posting(apart=apart)
    posting = _write_recorded(session, settle(batch, wallets), bulks, evict, then)
    posting.traces = {row[0]: row[4] for row in rows if row[4] and row[0] in posting.outcomes}
    posting.planned = {row[0]: row[10] for row in rows if row[10] and row[0] in posting.outcomes}
    posting.apart = apart
    return posting


def post_bulk(session: Session, bulk_id: int, *, evict: Evict = nobody_caches) -> Posting:
    """Post an atomic bulk in a transaction of its own: all of it, or reject all of it. It is true when this returns.

    One that is not pending as a whole is left alone.

    Raises:
        psycopg2.Error: as :func:`post`.
    """
    session.begin()
    rows = session.rows(_LOCK_BULK, bulk_id)
    batch = [Pending(*row[:4]) for row in rows if row[6] is None]
    if not batch:
        session.rollback()
        return Posting()
    settlement = settle_whole(batch, {row[0]: Wallet(*row[6:10]) for row in rows if row[6] is not None})
    posting = _write_recorded(session, settlement, {each.id: bulk_id for each in batch}, evict, COMMIT)
    posting.traces = {row[0]: row[4] for row in rows if row[4]}
    return posting


def _of_atomic(session: Session, bulks: Mapping[int, int]) -> dict[int, list[int]]:
    """Return the transfers that are of an atomic bulk, by that."""
    atomic = {row[0] for row in session.rows(_FIND_ATOMIC, array(sorted(set(bulks.values()))))}
    apart: dict[int, list[int]] = {}
    for transfer_id, bulk_id in bulks.items():
        if bulk_id in atomic:
            apart.setdefault(bulk_id, []).append(transfer_id)
    return apart


def _write_recorded(
    session: Session, settlement: Settlement, bulks: Mapping[int, int], evict: Evict, then: str
) -> Posting:
    """Write what recorded transfers come to, of which some may be of bulks."""
    decided = columns(settlement.decisions, "ntnn")
    if bulks and (counted := _count_by_bulk(settlement, bulks)):
        writing = _Writing(_WRITE_OF_BULKS, [*decided, *columns(counted, "nnn")], then)
    else:
        writing = _Writing(_WRITE_RECORDED, decided, then)
    posting = _write(session, settlement, writing, evict)
    posting.decided = list(posting.outcomes)
    return posting


def _count_by_bulk(settlement: Settlement, bulks: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """Return bulks, each with how many of its transfers are posted and how many rejected."""
    posted: Counter[int] = Counter()
    rejected: Counter[int] = Counter()
    for decision in settlement.decisions:
        if (bulk_id := bulks.get(decision.transfer_id)) is not None:
            (posted if decision.reason is None else rejected)[bulk_id] += 1
    return [(bulk_id, posted[bulk_id], rejected[bulk_id]) for bulk_id in sorted({*posted, *rejected})]


def post_new(
    session: Session,
    news: Sequence[NewTransfer],
    locked: Locked,
    *,
    evict: Evict = nobody_caches,
    then: str = COMMIT,
) -> Posting:
    """Record and post what the books allow, in the order given. What they do not allow is not recorded.

    Args:
        session: in a transaction that has locked the originals, and after them the wallets.
        news: what to post.
        locked: these.
        evict: as in :func:`post`.
        then: what follows in the same round trip; nothing does if nothing was written.

    Raises:
        psycopg2.errors.UniqueViolation: an id or a key is somebody else's by now.
        psycopg2.Error: any other technical fault.
    """
    settlement = settle([each.pending for each in news], locked.wallets, locked.originals)
    posted = [
        (new, decision) for new, decision in zip(news, settlement.decisions, strict=True) if decision.reason is None
    ]
    if not posted:
        return _posting(settlement)
    if settlement.given_back:
        writing = _Writing(_WRITE_REVERSALS, _reversal_columns(posted, settlement, locked.originals), then)
    else:
        rows = [(*new.row, decision.source_seq, decision.destination_seq) for new, decision in posted]
        writing = _Writing(_WRITE_NEW, columns(rows, f"{ROW}nn"), then)
    posting = _write(session, settlement, writing, evict)
    # A transfer's first entry is the giver's.
    posting.balances = {entry.transfer_id: entry.balance_after_cents for entry in reversed(settlement.entries)}
    return posting


def _reversal_columns(
    posted: Sequence[tuple[NewTransfer, Decision]], settlement: Settlement, originals: Mapping[int, Original]
) -> list[str]:
    """Return the columns of what is posted, reversals among it, and those of the originals."""
    given_back = settlement.given_back
    rows = [
        # One that was to give back the rest has turned out to move something.
        (
            *new._replace(amount_cents=given_back.get(new.id, new.amount_cents)).row,
            *decision[2:],
            new.reverses,
            new.key_owner,
        )
        for new, decision in posted
    ]
    touched = {originals[each].id: originals[each].reversed_cents for each in given_back}
    return [*columns(rows, f"{ROW}nnnn"), *columns(sorted(touched.items()), "nn")]


def _write(session: Session, settlement: Settlement, writing: "_Writing", evict: Evict) -> Posting:
    """Evict what a settlement changes, and write what it came to."""
    posting = _posting(settlement)
    posting.eviction = evict(posting.versions)
    kept = posting.eviction.kept
    wallets = [(wallet_id, *wallet[:2]) for wallet_id, wallet in settlement.wallets.items()]
    parameters = [*columns(wallets, "nnn"), *columns(settlement.entries, "nnnnnnn"), *writing.transfers]
    then = f"{keeping(kept)};{writing.then}" if kept else writing.then
    session.run(writing.statement, *parameters, then=then)
    return posting


class _Writing(NamedTuple):
    """How transfers are written: by a statement with further columns of theirs, and what follows it."""

    statement: Statement
    transfers: list[str]
    then: str = COMMIT


def lock_wallets(session: Session, wallet_ids: Iterable[int]) -> dict[int, Wallet]:
    """Lock those that exist."""
    return {row[0]: Wallet(*row[1:]) for row in session.rows(_LOCK_WALLETS, array(wallet_ids))}


def open_wallets(session: Session, wallet_ids: Iterable[int]) -> set[int]:
    """Open wallets without money, and return those that were not there.

    An insert that meets another one waits for it like for a lock. So whoever opens many, and posts into them
    afterwards, opens all of them first, in id order from one call to the next, while it holds no other lock.
    """
    return {row[0] for row in session.rows(OPEN_WALLETS, array(sorted(wallet_ids)))}


def find_wallets(session: Session, wallet_ids: Iterable[int]) -> set[int]:
    """Return those that exist."""
    return {row[0] for row in session.rows(_FIND_WALLETS, array(wallet_ids))}


def find_blocked(session: Session, batch: Iterable[Pending], wallets: Mapping[int, Wallet]) -> set[int]:
    """Return the parties of a batch that exist and are not ours to lock now."""
    unlocked = parties_of(batch) - wallets.keys()
    return find_wallets(session, unlocked) if unlocked else set()


def parties_of(batch: Iterable[Pending]) -> set[int]:
    """Return all whose wallets a batch is about."""
    return {wallet_id for _, *parties, _, _ in batch for wallet_id in parties if wallet_id is not None}


def _opened(session: Session, batch: Sequence[Pending], wallets: Mapping[int, Wallet]) -> dict[int, Wallet]:
    """Open and lock the wallets that a recorded deposit is the first to name.

    Locked out of id order, which is safe as long as no job is a deposit but one that an operator has recorded by hand.
    """
    fresh = {each.destination for each in batch if each.source is None and each.destination} - wallets.keys()
    if not fresh:
        return {}
    session.run(OPEN_WALLETS, array(sorted(fresh)))
    return lock_wallets(session, fresh)


def _posting(settlement: Settlement) -> Posting:
    outcomes = {decision.transfer_id: _outcome(decision) for decision in settlement.decisions}
    return Posting(outcomes, settlement.wallets)


def _outcome(decision: Decision) -> Outcome:
    return Outcome(Status.POSTED if decision.reason is None else Status.REJECTED, decision.reason)


def columns(rows: Sequence[tuple[Any, ...]], kinds: str) -> list[str]:
    """Turn rows into PostgreSQL arrays, one for each column: of numbers (``n``) or of texts (``t``)."""
    if not rows:
        return ["{}"] * len(kinds)
    return [
        array(column) if kind == "n" else texts(column)
        for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)
    ]


def array(values: Iterable[int | None]) -> str:
    """Spell a PostgreSQL array of numbers.

    psycopg2 would adapt every element by itself, which costs a batch more than all of the deciding.
    """
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    """Spell a PostgreSQL array of texts."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
