"""How old entries leave: in slices, each one file and one transaction, while the service goes on.

A slice is a row of prefixes: of some wallets, by id, the oldest entries (by seq) as far as all of them are older than
an instant. One transaction deletes them, and what it deletes, as PostgreSQL returns it, is what is written to the file.
The file is on the disk, whole, before the commit. So whatever is killed: until the commit every row is in the database,
and after it every row is in a file whose digest the database knows. What a killed run has left is at most a file that
the database does not know, and its rows are all still there. Running it again goes on.

A wallet whose entries have left gets an opening, in the same transaction: it stands for them. A posted transfer leaves
with the last of its entries, unless it has an idempotency key: keys never expire, and the row is the key's record. The
first answer to such a key tells a balance that the entry knew; that is kept as a receipt.

Entries below a prefix's end are immutable, and nobody else deletes: no wallet is locked, and no posting waits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, select, text

from models.errors import WalletServiceError
from models.ledger import archive_file
from models.ledger.archive_file import Head, Row, name_of
from models.ledger.settlement import EntryType
from models.ledger.transfer import Kind
from models.schema.tables import archives

# Entries of a slice. They are held in memory, and deleted by one statement: some 50 MB, and about a second.
SLICE = 50_000
# Wallets of one look for old entries.
MOST_WALLETS = 1_000
# What is younger stays, whatever is asked for: somebody may wait for it, try it again, or be auditing it.
MIN_AGE_DAYS = 1

# What a transfer makes of its cents: deposits less withdrawals.
_SIGNS = {Kind.DEPOSIT.value: 1, Kind.WITHDRAWAL.value: -1}

# Any constant would do: it only has to be the same in every process that archives.
_LOCK_KEY = 7_246_012
# Plans go by key, whatever statistics say. The bounds are those of an owner's work: a file is written meanwhile.
_PREPARE = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '10min';
SET LOCAL idle_in_transaction_session_timeout = '10min'
"""
# Wallets, by id, as far as there is room for all of their entries, whatever their age; or one, and what fits of it.
_LOOK = text("""
WITH accounts AS MATERIALIZED (
    SELECT w.id, w.version, coalesce(o.seq, 0) AS after, coalesce(o.balance, 0) AS balance
    FROM (SELECT id, version FROM wallets WHERE id > :position ORDER BY id LIMIT :wallets) AS w
    LEFT JOIN LATERAL (SELECT seq, balance FROM openings WHERE wallet_id = w.id LIMIT 1) AS o ON true
), fitting AS MATERIALIZED (
    SELECT id, version, after, balance, least(version, after + :room) AS most,
        row_number() OVER running AS number, sum(version - after) OVER running AS total
    FROM accounts WINDOW running AS (ORDER BY id)
)
SELECT id, after, balance, most, most < version AS is_cut, coalesce((
    SELECT e.seq - 1 FROM entries AS e
    WHERE e.wallet_id = f.id AND e.seq > f.after AND e.seq <= f.most AND e.created_at >= :before
    ORDER BY e.seq LIMIT 1
), most) AS through
FROM fitting AS f WHERE number = 1 OR total <= :room ORDER BY id
""")
_DELETE_ENTRIES = text("""
WITH prefix AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:afters AS bigint[]), CAST(:throughs AS bigint[]))
        AS given (wallet_id, after, through)
)
DELETE FROM entries AS e USING prefix AS p
WHERE e.wallet_id = p.wallet_id AND e.seq > p.after AND e.seq <= p.through RETURNING e.*
""")
_OPEN = text("""
INSERT INTO openings AS o (wallet_id, seq, balance, last_at, archive)
SELECT given.*, :archive FROM unnest(CAST(:ids AS bigint[]), CAST(:seqs AS bigint[]), CAST(:balances AS bigint[]),
    CAST(:last_ats AS timestamptz[])) AS given
ON CONFLICT (wallet_id) DO UPDATE SET seq = excluded.seq, balance = excluded.balance,
    last_at = greatest(o.last_at, excluded.last_at), archive = excluded.archive
""")
_KEEP_RECEIPTS = text("""
INSERT INTO receipts (transfer_id, balance)
SELECT t.id, given.balance FROM unnest(CAST(:ids AS bigint[]), CAST(:balances AS bigint[])) AS given (id, balance)
JOIN transfers AS t ON t.id = given.id WHERE t.idempotency_key IS NOT NULL
""")
_DELETE_TRANSFERS = text("""
DELETE FROM transfers AS t USING unnest(CAST(:ids AS bigint[])) AS given (id)
WHERE t.id = given.id AND t.status = 'posted' AND t.idempotency_key IS NULL
    AND (t.source IS NULL OR t.source_seq <= (SELECT seq FROM openings WHERE wallet_id = t.source))
    AND (t.destination IS NULL OR t.destination_seq <= (SELECT seq FROM openings WHERE wallet_id = t.destination))
RETURNING t.*
""")


class NotArchived(WalletServiceError):
    """Nothing more leaves."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def __str__(self) -> str:
        """Return why."""
        return self.why


class Prefix(NamedTuple):
    """The entries of one wallet that leave: those after a seq, with the balance that was then, through another."""

    wallet_id: int
    after: int
    balance_cents: int
    through: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What has left in one slice, and the name of its file."""

    number: int
    name: str
    wallets: int
    entries: int
    transfers: int


class Archives:
    """Moves old entries of one database into one folder."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        """Connect to nothing yet.

        Args:
            engine: connects as the owner of the tables.
            folder: made if it is not there. It must have the last file that was written for this database.
        """
        self._engine = engine
        self._folder = folder

    def run(self, before: datetime, *, rest: Callable[[float], object] = time.sleep) -> Iterator[Archive]:
        """Let leave what was posted before an instant, and tell of each slice once it is done.

        Args:
            before: the instant, with its time zone.
            rest: is told after each slice how many seconds it has taken, so that the service has as much for itself.

        Raises:
            NotArchived: the instant is too young, the folder is another database's or another run's, or the books are
                wrong where they should be written down. What has left until then is as it should be.
            sqlalchemy.exc.DBAPIError: the database is away, or refuses.
            OSError: the file cannot be written.
        """
        if before > datetime.now(UTC) - timedelta(days=MIN_AGE_DAYS):
            raise NotArchived(f"what is younger than {MIN_AGE_DAYS} day stays: give an earlier instant than {before}")
        try:
            with archive_file.only_writer(self._folder):
                position: int | None = 0
                while position is not None:
                    began = time.monotonic()
                    done, position = self._move(before, position)
                    if done is not None:
                        yield done
                        rest(time.monotonic() - began)
        except BlockingIOError as error:
            raise NotArchived(f"another run writes to {self._folder}") from error

    def vacuum(self) -> None:
        """Make the room of what has left usable again, and see that plans know of it."""
        with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            # As gentle as autovacuum: the service is at work.
            connection.execute(text("SET vacuum_cost_delay = '2ms'"))
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("VACUUM (ANALYZE) entries, transfers"))
            connection.execute(text("RESET ALL"))

    def _move(self, before: datetime, position: int) -> tuple[Archive | None, int | None]:
        """Move one slice; return what has left, if anything, and after which wallet to go on."""
        # Whatever the database's default is: what one statement has deleted, the next must see.
        with self._engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.exec_driver_sql(_PREPARE)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            number, previous = self._find_last(connection)
            prefixes, position_after = find_prefixes(connection, before, position)
            if not prefixes:
                return None, position_after
            leaving = _Leaving(connection, prefixes, number + 1)
            instants = [row["created_at"].astimezone(UTC) for row in leaving.entries]
            head = Head(
                number=number + 1,
                previous=previous.hex(),
                before=before.astimezone(UTC).isoformat(),
                wallets=len(prefixes),
                entries=len(leaving.entries),
                transfers=len(leaving.transfers),
                moved=str(sum(row["amount"] for row in leaving.entries)),
                made=str(sum(_SIGNS.get(row["kind"], 0) * row["amount"] for row in leaving.transfers)),
                first=min(instants).isoformat(),
                last=max(instants).isoformat(),
            )
            digest = archive_file.write(self._folder, head, leaving.entries, leaving.transfers)
            connection.execute(
                archives.insert().values(
                    id=head.number,
                    before=before,
                    entries=head.entries,
                    transfers=head.transfers,
                    moved=int(head.moved),
                    made=int(head.made),
                    digest=digest,
                )
            )
        done = Archive(
            number=head.number,
            name=name_of(head.number, digest),
            wallets=head.wallets,
            entries=head.entries,
            transfers=head.transfers,
        )
        return done, position_after

    def _find_last(self, connection: Connection) -> tuple[int, bytes]:
        """Return number and digest of the last archive, whose file must be here."""
        query = select(archives.c.id, archives.c.digest).order_by(archives.c.id.desc()).limit(1)
        last = connection.execute(query).first()
        if last is None:
            return 0, b""
        digest = bytes(last.digest)
        path = self._folder / name_of(last.id, digest)
        try:
            is_whole = archive_file.digest_of(path) == digest
        except FileNotFoundError:
            raise NotArchived(f"{path.name}, the last of this database's archives, is not in {self._folder}") from None
        if not is_whole:
            raise NotArchived(f"{path} is not as it was written")
        return last.id, digest


class _Leaving:
    """What a transaction has deleted, and what it has put in its place."""

    def __init__(self, connection: Connection, prefixes: Sequence[Prefix], number: int) -> None:
        ranges = {
            "ids": [each.wallet_id for each in prefixes],
            "afters": [each.after for each in prefixes],
            "throughs": [each.through for each in prefixes],
        }
        found = connection.execute(_DELETE_ENTRIES, ranges).mappings().all()
        self.entries = sorted(found, key=lambda row: (row["wallet_id"], row["seq"]))
        openings = _check(prefixes, self.entries)
        connection.execute(_OPEN, {**openings, "ids": ranges["ids"], "seqs": ranges["throughs"], "archive": number})
        givers = [row for row in self.entries if row["type"] == EntryType.DEPOSIT or row["amount"] < 0]
        kept = {"ids": [row["transfer_id"] for row in givers], "balances": [row["balance_after"] for row in givers]}
        connection.execute(_KEEP_RECEIPTS, kept)
        ids = sorted({row["transfer_id"] for row in self.entries})
        gone = connection.execute(_DELETE_TRANSFERS, {"ids": ids}).mappings().all()
        self.transfers = sorted(gone, key=lambda row: row["id"])


def _check(prefixes: Sequence[Prefix], entries: Sequence[Row]) -> dict[str, list[Any]]:
    """Return what the wallets open with after these entries, if they are all there and go on from each other.

    Raises:
        NotArchived: they are not.
    """
    rows = iter(entries)
    balances, last_ats = [], []
    for prefix in prefixes:
        balance_cents, instants = prefix.balance_cents, []
        for seq in range(prefix.after + 1, prefix.through + 1):
            row = next(rows, {})
            balance_cents += row.get("amount", 0)
            found = row.get("wallet_id"), row.get("seq"), row.get("balance_after")
            if found != (prefix.wallet_id, seq, balance_cents):
                where = f"entry {seq} of wallet {prefix.wallet_id}"
                raise NotArchived(f"the books are wrong at {where}, and nothing leaves: see flask audit")
            instants.append(row["created_at"])
        balances.append(balance_cents)
        last_ats.append(max(instants))
    return {"balances": balances, "last_ats": last_ats}


def find_prefixes(connection: Connection, before: datetime, position: int) -> tuple[list[Prefix], int | None]:
    """Find what may leave in one slice.

    Args:
        connection: in a transaction.
        before: all of it is older than this.
        position: look at wallets with a higher id.

    Returns:
        A wallet's prefix each, of :data:`SLICE` entries together at most; and the position to go on from, None if
        there are no more wallets. Half a slice is enough: what there is room for is looked through whatever its age.
    """
    prefixes: list[Prefix] = []
    room = SLICE
    while room >= SLICE // 2:
        look = {"position": position, "room": room, "wallets": MOST_WALLETS, "before": before}
        rows = connection.execute(_LOOK, look).all()
        if not rows:
            return prefixes, None
        for row in rows:
            position = row.id
            if row.through > row.after:
                prefixes.append(Prefix(row.id, row.after, row.balance, row.through))
                room -= row.through - row.after
        if rows[0].is_cut and rows[0].through == rows[0].most:
            return prefixes, rows[0].id - 1  # there may be more of it
    return prefixes, position
