"""Opening wallets with what is in them, many at once: each balance is a deposit, and all of them are one transaction.

Whatever breaks off an import, nothing of it is left, and it is simply run again. One that was done says so: its
deposits carry its idempotency key, as any order's would.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database.faults import is_conflict, is_connection_lost
from models.database.session import Session, Statement
from models.errors import OutcomeUnknown, Unavailable, WalletServiceError
from models.ledger.import_file import Opening
from models.ledger.orders import MAX_TRIES, Ids
from models.ledger.posting import Locked, NewTransfer, array, find_wallets, lock_wallets, open_wallets, post_new, texts
from models.ledger.transfer import Kind, Order, Status

CALL = "import"
# Rows a statement. With 2,000 PostgreSQL reads whole tables for each slice, which takes twice as long and, the more
# there is in them, longer; 1,000 are looked up in the indexes.
SLICE = 1_000
# As many users are named in a refusal.
MAX_NAMED = 5

# (LATERAL … LIMIT 1: as in models/ledger/placement.py. All of an import has the same key.)
_FIND_DEPOSITS = Statement(
    "find_deposits",
    ("bigint[]", "text[]", "text"),
    """
SELECT count(*), count(*) FILTER (WHERE known.request_hash = decode(new.hash, 'hex'))
FROM unnest($1, $2) AS new (user_id, hash), LATERAL (
    SELECT request_hash FROM transfers AS t
    WHERE t.idempotency_key = $3 AND coalesce(t.key_owner, t.source, t.destination) = new.user_id LIMIT 1
) AS known
""",
)


class WalletsExist(WalletServiceError):
    """Some of the users have a wallet already; nothing moved."""

    def __init__(self, user_ids: Sequence[int]) -> None:
        super().__init__()
        self.count = len(user_ids)
        self.users = " ".join(map(str, user_ids[:MAX_NAMED])) + (" …" if len(user_ids) > MAX_NAMED else "")


class ImportReused(WalletServiceError):
    """The import's id or key was used before, for other users or balances; nothing moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import comes to; ``replayed``: it was done before, and nothing moved this time."""

    wallets: int
    amount_cents: int
    replayed: bool


def content_id(openings: Iterable[Opening]) -> str:
    """Name an import by what is in it, whatever the order of its rows and the spelling of its file."""
    digest = hashlib.sha256()
    for opening in sorted(openings):
        digest.update(b"%d,%d\n" % opening)
    return digest.hexdigest()[:32]


class Imports:
    """Opens wallets in one database."""

    def __init__(self, engine: Engine, ids: Ids) -> None:
        self._engine = engine
        self._ids = ids

    def check(self, openings: Iterable[Opening], *, key: str) -> Imported:
        """Tell what :meth:`run` would do, and do nothing.

        Raises:
            WalletsExist, ImportReused: as :meth:`run`.
            Unavailable: the database cannot be reached.
        """
        work = _Work(openings, key)
        try:
            with Session(self._engine) as session:
                existing = {user for users in work.slices() for user in find_wallets(session, users)}
                return work.replayed(session, existing) if existing else work.imported(replayed=False)
        except (DBAPIError, PoolTimeoutError) as error:
            raise Unavailable from error

    def run(
        self, openings: Iterable[Opening], *, key: str, progress: Callable[[int], object] = lambda _: None
    ) -> Imported:
        """Open all of these wallets, each by a deposit of its balance, or none of them.

        Args:
            openings: each user once.
            key: the idempotency key of each of the deposits. The same openings under the same key move nothing again.
            progress: is told how many more rows have been written; a try that starts anew takes back what it had told.

        Raises:
            WalletsExist: some of the users have a wallet, and not from this import.
            ImportReused: the key was used for other balances.
            Unavailable: nothing moved.
            OutcomeUnknown: the reply to the commit was lost, and so was every attempt to find out: run it again.
        """
        work = _Work(openings, key)
        # Drawn before, and kept for every try: what comes of a commit may be unknown, its ids are not.
        work.ids = [self._ids.next_id() for _ in work.funded]
        for _ in range(MAX_TRIES):
            try:
                return self._run(work, progress)
            except PoolTimeoutError as error:
                raise work.unfinished() from error
            except DBAPIError as error:
                if is_connection_lost(error):
                    work.in_doubt |= work.sent
                elif not is_conflict(error):
                    raise work.unfinished() from error
                progress(-work.written)
        raise work.unfinished()

    def _run(self, work: "_Work", progress: Callable[[int], object]) -> Imported:
        work.sent, work.written = False, 0
        with Session(self._engine) as session:
            session.begin()
            # Before anything else: who waits for a twin of this import holds nothing that the twin may wait for.
            opened = {user for users in work.slices() for user in open_wallets(session, users)}
            if existing := work.users.keys() - opened:
                session.rollback()
                return work.replayed(session, existing)
            for size in work.post(session):
                work.written += size
                progress(size)
            work.sent = True
            session.commit()
        return work.imported(replayed=False)


class _Work:
    """One import. ``sent`` and ``in_doubt`` as in models/ledger/orders.py; ``written``: rows of this try so far."""

    def __init__(self, openings: Iterable[Opening], key: str) -> None:
        # In order of user, which is the order of locks.
        self.users = dict(sorted(openings))
        self.key = key
        self.funded = [Opening(*each) for each in self.users.items() if each[1]]
        self.ids: list[int] = []
        self.sent = self.in_doubt = False
        self.written = 0

    def slices(self) -> Iterator[list[int]]:
        """Yield the users, some at a time."""
        users = [*self.users]
        return (users[first : first + SLICE] for first in range(0, len(users), SLICE))

    def post(self, session: Session) -> Iterator[int]:
        """Deposit into each, and yield the sizes of the slices."""
        for first in range(0, len(self.funded), SLICE):
            rows = self.funded[first : first + SLICE]
            news = [
                NewTransfer(new, Kind.DEPOSIT, None, row.user_id, row.balance_cents, self.key, _hash(row))
                for new, row in zip(self.ids[first : first + SLICE], rows, strict=True)
            ]
            posting = post_new(session, news, Locked(lock_wallets(session, [row.user_id for row in rows])), then="")
            # A new wallet takes any balance, and its owner cannot see it before the commit.
            if any(outcome.status is not Status.POSTED for outcome in posting.outcomes.values()):
                raise AssertionError("a deposit into a new wallet was rejected")
            yield len(rows)

    def replayed(self, session: Session, existing: set[int]) -> Imported:
        """Tell an import that was done from wallets that came to be in another way.

        Raises:
            WalletsExist, ImportReused: as :meth:`Imports.run`.
        """
        found = same = 0
        for first in range(0, len(self.funded), SLICE):
            rows = self.funded[first : first + SLICE]
            hashes = texts(_hash(row).hex() for row in rows)
            ((count, alike),) = session.rows(_FIND_DEPOSITS, array(row.user_id for row in rows), hashes, self.key)
            found, same = found + count, same + alike
        if not found:
            raise WalletsExist(sorted(existing))
        if same < len(self.funded) or len(existing) < len(self.users):
            raise ImportReused
        # In doubt, it was this very run whose reply was lost.
        return self.imported(replayed=not self.in_doubt)

    def imported(self, *, replayed: bool) -> Imported:
        return Imported(wallets=len(self.users), amount_cents=sum(self.users.values()), replayed=replayed)

    def unfinished(self) -> OutcomeUnknown | Unavailable:
        return OutcomeUnknown(self.ids[0]) if self.in_doubt and self.ids else Unavailable()


def _hash(opening: Opening) -> bytes:
    """Digest what an import's key is bound to in each of its deposits."""
    return Order(
        call=CALL, kind=Kind.DEPOSIT, source=None, destination=opening.user_id, amount_cents=opening.balance_cents
    ).request_hash
