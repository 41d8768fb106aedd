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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, select, text

from models.errors import NotArchived
from models.ledger import archive_file, events
from models.ledger.archive_file import Head, name_of
from models.ledger.leaving import Leaving, find_prefixes
from models.ledger.transfer import Kind
from models.schema.tables import archives

# Entries of a slice. They are held in memory, and deleted by one statement: some 50 MB, and about a second.
SLICE = 50_000
# Wallets of one look for old entries.
MOST_WALLETS = 1_000
# What is younger stays, whatever is asked for: somebody may wait for it, try it again, or be auditing it.
MIN_AGE_DAYS = 1

# Whoever reads of an event reads the transfer: those of events that are kept stay, and some before them, for an event's
# instant is that at which its statement began.
EVENT_MARGIN = timedelta(hours=1)

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
            NotArchived: the instant is too young, or events since then are kept, the folder is another database's or
                another run's, or the books are wrong where they should be written down. What has left until then is as
                it should be.
            sqlalchemy.exc.DBAPIError: the database is away, or refuses.
            OSError: the file cannot be written.
        """
        if before > datetime.now(UTC) - timedelta(days=MIN_AGE_DAYS):
            raise NotArchived(f"what is younger than {MIN_AGE_DAYS} day stays: give an earlier instant than {before}")
        with self._engine.connect() as connection:
            oldest = events.find_oldest(connection)
        if oldest is not None and before > oldest - EVENT_MARGIN:
            raise NotArchived(
                f"transfers since {oldest} have events that are kept: give an earlier instant, or wait until these are"
                " forgotten (EVENTS_DAYS)"
            )
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
            connection.execute(text("VACUUM (ANALYZE) entries, transfers, transfer_references"))
            connection.execute(text("RESET ALL"))

    def _move(self, before: datetime, position: int) -> tuple[Archive | None, int | None]:
        """Move one slice; return what has left, if anything, and after which wallet to go on."""
        # Whatever the database's default is: what one statement has deleted, the next must see.
        with self._engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.exec_driver_sql(_PREPARE)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            number, previous = self._find_last(connection)
            prefixes, position_after = find_prefixes(
                connection, before, position, limit=SLICE, most_wallets=MOST_WALLETS
            )
            if not prefixes:
                return None, position_after
            leaving = Leaving(connection, prefixes, number + 1)
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
