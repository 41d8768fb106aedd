"""Freezing wallets: an administrator forbids money to leave one, or to come, until one allows it again.

Two columns of the wallet say which sides are frozen, and whoever posts reads them with the lock that he takes anyway
(posting.py, placement.py). They change under the same lock. So what was posted before had it before, and whatever
comes after sees them. Why, when and by whom stands in a row for each change, written in the same transaction.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import DBAPIError

from models.cache.kept_evictions import keeping
from models.cache.wallet_cache import Eviction, Evictor
from models.database.engine import transaction
from models.database.faults import is_connection_lost
from models.errors import Unavailable, WalletNotFound
from models.schema.tables import freezes, wallets

# Characters of a reason.
MAX_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """Which sides of a wallet are frozen; the reason, the instant and the author of the last change of that."""

    debits: bool
    credits: bool
    reason: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an administrator wants: sides frozen (True), not frozen (False), or left as they are (None); why; who."""

    debits: bool | None
    credits: bool | None
    reason: str | None
    by: str


class Freezes:
    """Freezes wallets of one database, and evicts what is cached of them."""

    def __init__(self, engine: Engine, cache: Evictor) -> None:
        self._engine = engine
        self._cache = cache

    def change(self, wallet_id: int, wanted: Change) -> bool:
        """Freeze sides of a wallet or let them go, and return whether anything is otherwise than it was.

        To repeat it is safe. A reason other than the one of before is something else. What is lifted needs none.

        Raises:
            WalletNotFound: the user has no wallet.
            Unavailable: the database cannot be reached, or somebody holds the wallet for too long. Should the reply to
                the commit have been lost twice, it is as wanted all the same.
        """
        try:
            return self._change(wallet_id, wanted)
        except Unavailable as error:
            if not isinstance(error.__cause__, DBAPIError) or not is_connection_lost(error.__cause__):
                raise
        # What is found to be as wanted may be so by the try whose reply was lost.
        self._change(wallet_id, wanted)
        return True

    def _change(self, wallet_id: int, wanted: Change) -> bool:
        eviction = Eviction({})
        try:
            with transaction(self._engine) as connection:
                if (version := _write(connection, wallet_id, wanted)) is None:
                    return False
                # The wallet's version stays, since it counts entries. As of the next one, nothing that was read of this
                # one is stored again for as long as whoever has read it before may still try to (wallet_cache.py).
                eviction = self._cache.evict({wallet_id: version + 1})
                if eviction.kept:
                    connection.exec_driver_sql(keeping(eviction.kept))
        finally:
            self._cache.evict_again(eviction)
        return True


def _write(connection: Connection, wallet_id: int, wanted: Change) -> int | None:
    """Lock a wallet and write what is wanted; return its version, None if that is so already."""
    # FOR NO KEY UPDATE, as in posting.py.
    locked = connection.execute(
        select(wallets).where(wallets.c.id == wallet_id).with_for_update(key_share=True)
    ).first()
    if locked is None:
        raise WalletNotFound(wallet_id)
    was = locked.debits_frozen, locked.credits_frozen
    debits = was[0] if wanted.debits is None else wanted.debits
    credits_ = was[1] if wanted.credits is None else wanted.credits
    # A statement of its own: it sees what whoever had the lock before has written.
    newest = select(freezes.c.reason).where(freezes.c.wallet_id == wallet_id).order_by(freezes.c.id.desc()).limit(1)
    reason = before = connection.execute(newest).scalar()
    if wanted.reason is not None or not (debits or credits_):
        reason = wanted.reason
    if (debits, credits_) == was and (reason == before or not (debits or credits_)):
        return None
    connection.execute(
        insert(freezes).values(wallet_id=wallet_id, debits=debits, credits=credits_, reason=reason, by=wanted.by)
    )
    connection.execute(
        update(wallets).where(wallets.c.id == wallet_id).values(debits_frozen=debits, credits_frozen=credits_)
    )
    version: int = locked.version
    return version
