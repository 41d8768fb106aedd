"""Cached reads of wallets, in Redis: fast, and never older than what was answered before.

One hash per wallet holds what was read of it (its balance, pages of its history), all of one version, so evicting a
wallet is one command and leaves no page behind. The classic race (a reader reads the old row, a writer commits and
evicts, the reader stores the old row) is closed by four things, each of which is for something that the others leave
open (tests/models/test_cache_model.py goes through the interleavings):

* the *fence*: an eviction leaves the wallet's new version behind, and what is older is not stored;
* evicting *before* the commit, when the new version is known, so that a writer killed after it leaves nothing stale;
* evicting *again* after the commit, for a Redis that lost its data in between;
* the *epoch*, a word that is lost with Redis's data: a reader notes it at the miss, and stores nothing in another one.

An eviction that cannot reach Redis is kept in PostgreSQL, in the transaction that it belongs to, and done by whoever
first finds it there. When a process may believe what the cache says, models/cache_pulse.py knows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import redis
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import metrics
from models.cache_pulse import BEAT_TIMEOUT_S, EPOCH, EVICTION_TIMEOUT_S, OPEN, Pulse, new_epoch
from models.database import Session, Statement, read_rows, transaction
from models.redis_line import Command, RedisLine, Script

# A question on the way of a request. Whoever gets no answer asks PostgreSQL.
READ_TIMEOUT_S = 0.3
# From the miss to the filling; a slower read is not stored. By Redis's clock, so it holds also for who was stopped.
LATEST_FILL_S = 2.0
# Pages of one wallet, and its balance.
MOST_FIELDS = 16
# A page of a hundred entries has some 25 KB.
MOST_BYTES = 65_536
# Kept evictions done in one go.
MOST_KEPT = 500

ENTRIES, FENCE = "wallet:cache:entries:", "wallet:cache:fence:"

_LUA = Path(__file__).parent / "lua"
READ, FILL, EVICT = (Script.read(_LUA / f"cache_{name}.lua") for name in ("read", "fill", "evict"))

_KEPT = Statement("find_kept_evictions", ("int",), "SELECT wallet_id, version FROM kept_evictions LIMIT $1")
_FORGET = Statement(
    "forget_kept_evictions",
    ("bigint[]", "bigint[]"),
    """
DELETE FROM kept_evictions AS kept USING unnest($1, $2) AS done (wallet_id, version)
WHERE kept.wallet_id = done.wallet_id AND kept.version <= done.version
""",
)
# Of wallets whose cached reads could not be evicted. Within a posting, the wallets' locks keep the rows' order.
_KEEP = """
INSERT INTO kept_evictions (wallet_id, version)
SELECT * FROM unnest('{{{ids}}}'::bigint[], '{{{versions}}}'::bigint[]) ORDER BY 1
ON CONFLICT (wallet_id) DO UPDATE SET version = greatest(kept_evictions.version, excluded.version)
"""

_log = structlog.get_logger("cache")

# Takes wallets with the versions they are about to have, drops what is cached of them, and returns those of which it
# could not.
Evict = Callable[[Mapping[int, int]], Mapping[int, int]]


class Evictor(Protocol):
    """What a writer needs of a cache. Versions are those that the wallets have once the transaction is committed."""

    def evict(self, versions: Mapping[int, int]) -> Mapping[int, int]:
        """Drop what is cached, while the wallets are locked; return what could not be dropped and has to be kept."""

    def evict_again(self, versions: Mapping[int, int]) -> None:
        """Drop what is cached, after the commit."""


def nobody_caches(_versions: Mapping[int, int]) -> Mapping[int, int]:
    """Evict nothing: for a database whose wallets are not read through a cache."""
    return {}


class NobodyCaches:
    """The evictor of a database whose wallets are not read through a cache."""

    def evict(self, _versions: Mapping[int, int]) -> Mapping[int, int]:
        """There is nothing to drop."""
        return {}

    def evict_again(self, _versions: Mapping[int, int]) -> None:
        """There is nothing to drop."""


def keeping(versions: Mapping[int, int]) -> str:
    """Return the statement that keeps evictions of wallets, to be done later."""
    return _KEEP.format(ids=",".join(map(str, versions)), versions=",".join(map(str, versions.values())))


@dataclass(frozen=True, slots=True)
class Miss:
    """What was noted when nothing was found, for the filling."""

    epoch: bytes
    noted: bytes


class WalletCache:
    """The cached reads of one database's wallets in one Redis. Making it connects to nothing."""

    def __init__(
        self, connect: Callable[[float], redis.Redis], engine: Engine, *, ttl_s: int, longest_transaction_s: float
    ) -> None:
        """Connect to nothing yet.

        Args:
            connect: makes a client of Redis with an answer timeout in seconds and no retries.
            engine: of the database.
            ttl_s: seconds that something stays cached; 0: nothing is.
            longest_transaction_s: seconds from an eviction to its commit, at most. A fence outlives that.
        """
        self.line = RedisLine(connect(READ_TIMEOUT_S), [READ, FILL])
        self._writing = RedisLine(connect(EVICTION_TIMEOUT_S), [EVICT])
        self._engine = engine
        self._ttl_s = ttl_s
        self._fence_s = int(longest_transaction_s + LATEST_FILL_S) + 1
        self.pulse = Pulse(RedisLine(connect(BEAT_TIMEOUT_S), [OPEN]), self.settle_kept)

    def question(self, wallet_id: int, field: str) -> Command | None:
        """Return the command that looks for something, None when the cache must not be asked now."""
        if not self._ttl_s:
            return None
        if not self.pulse.believes():
            metrics.cache_reads["bypassed"].inc()
            return None
        return READ.call([EPOCH, f"{ENTRIES}{wallet_id}"], field, new_epoch())

    def answer(self, reply: Any, sent_at: float) -> bytes | Miss | None:
        """Read the reply to a question: what was cached, or a miss, or None: it must not be believed.

        Args:
            reply: Redis's.
            sent_at: when it was asked, by :func:`time.monotonic`.
        """
        if not self.pulse.believed(sent_at):
            metrics.cache_reads["bypassed"].inc()
            return None
        if len(reply) == 1:
            metrics.cache_reads["hit"].inc()
            payload: bytes = reply[0]
            return payload
        metrics.cache_reads["miss"].inc()
        return Miss(reply[1], reply[2])

    def look(self, wallet_id: int, field: str) -> bytes | Miss | None:
        """Ask, and read the reply: see :meth:`answer`."""
        question = self.question(wallet_id, field)
        if question is None:
            return None
        sent_at = time.monotonic()
        try:
            (reply,) = self.line.ask(question)
        except redis.RedisError:
            self.pulse.failed(sent_at)
            return None
        return self.answer(reply, sent_at)

    def fill(self, wallet_id: int, field: str, miss: Miss, version: int, payload: bytes) -> bool:
        """Store what was read after a miss, and return whether it was taken.

        Args:
            wallet_id: whose.
            field: what it is.
            miss: from before the read.
            version: of the wallet, in the snapshot that was read.
            payload: what to find the next time.
        """
        is_stored = (
            len(payload) <= MOST_BYTES and self.pulse.has_room and self._store(wallet_id, field, miss, version, payload)
        )
        metrics.cache_fills["stored" if is_stored else "refused"].inc()
        return is_stored

    def _store(self, wallet_id: int, field: str, miss: Miss, version: int, payload: bytes) -> bool:
        keys = [EPOCH, f"{ENTRIES}{wallet_id}", f"{FENCE}{wallet_id}"]
        latest_us = int(LATEST_FILL_S * 1_000_000)
        sent_at = time.monotonic()
        try:
            (said,) = self.line.ask(
                FILL.call(keys, miss.epoch, miss.noted, version, self._ttl_s, field, payload, MOST_FIELDS, latest_us)
            )
        except redis.ResponseError:
            return False  # out of memory
        except redis.RedisError:
            self.pulse.failed(sent_at)
            return False
        return bool(said == b"stored")

    def evict(self, versions: Mapping[int, int]) -> Mapping[int, int]:
        """Drop what is cached of wallets; return what could not be dropped and has to be kept: all, or nothing."""
        if not self._ttl_s or not versions:
            return {}
        is_told = not self.pulse.is_away() and self._try_to_tell(versions)
        metrics.cache_evictions["done" if is_told else "kept"].inc(len(versions))
        return {} if is_told else versions

    def evict_again(self, versions: Mapping[int, int]) -> None:
        """Drop what is cached of wallets after the commit; what cannot be dropped is kept."""
        if not (missed := self.evict(versions)):
            return
        try:
            with transaction(self._engine) as connection:
                connection.exec_driver_sql(keeping(missed))
        except Exception as error:  # noqa: BLE001 - the money has moved, and that is what is answered
            _log.error("eviction lost: bounded by its time to live", wallets=len(missed), cause=type(error).__name__)

    def settle_kept(self) -> bool:
        """Do evictions that were kept, some at a time, and return whether there were none.

        Raises:
            redis.RedisError: Redis is away.
            Unavailable: PostgreSQL is away.
        """
        kept = read_rows(self._engine, _KEPT, MOST_KEPT)
        metrics.cache_kept_evictions.set(len(kept))
        if not kept:
            return True
        versions = dict(kept)
        self._tell(versions)
        try:
            with Session(self._engine) as session:
                session.run(_FORGET, list(versions), list(versions.values()))
        except SQLAlchemyError as error:
            _log.warning("kept evictions are done once more", cause=type(error).__name__)
        else:
            _log.info("kept evictions done", wallets=len(versions))
        return False

    def close(self) -> None:
        """Hang up."""
        self.pulse.close()
        self.line.close()
        self._writing.close()

    def _try_to_tell(self, versions: Mapping[int, int]) -> bool:
        sent_at = time.monotonic()
        try:
            self._tell(versions)
        except redis.ResponseError:
            return False  # out of memory, or still loading
        except redis.RedisError:
            self.pulse.failed(sent_at)
            return False
        return True

    def _tell(self, versions: Mapping[int, int]) -> None:
        pairs = [number for pair in versions.items() for number in pair]
        self._writing.ask(EVICT.call([], self._fence_s, ENTRIES, FENCE, *pairs))
