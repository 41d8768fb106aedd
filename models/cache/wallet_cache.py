"""Cached reads of wallets, in Redis: fast, and never older than what was answered before.

One hash per wallet holds what was read of it (its balance, pages of its history), all of one version, so evicting a
wallet is one command and leaves no page behind. The classic race (a reader reads the old row, a writer commits and
evicts, the reader stores the old row) is closed by four things, each of which is for something that the others leave
open (tests/models/cache/test_cache_model.py goes through the interleavings):

* the *fence*: an eviction leaves the wallet's new version behind, and what is older is not stored;
* evicting *before* the commit, when the new version is known, so that a writer killed after it leaves nothing stale;
* evicting *again* after the commit, if Redis has lost its data in between, which another epoch tells, or a server that
  had to be connected to anew;
* the *epoch*, a word that is lost with Redis's data: a reader notes it at the miss, and stores nothing in another one.

An eviction that cannot reach Redis is kept in PostgreSQL, in the transaction that it belongs to, and done by whoever
first finds it there (kept_evictions.py). When a process may believe what the cache says, pulse.py knows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import redis
from sqlalchemy import Engine

from models.cache.kept_evictions import KeptEvictions
from models.cache.pulse import BEAT_TIMEOUT_S, EPOCH, EVICTION_TIMEOUT_S, OPEN, Pulse, new_epoch
from models.redis_line.line import Command, RedisLine, Script
from observe import metrics

# A question on the way of a request. Whoever gets no answer asks PostgreSQL.
READ_TIMEOUT_S = 0.3
# From the miss to the filling; a slower read is not stored. By Redis's clock, so it holds also for who was stopped.
LATEST_FILL_S = 2.0
# Pages of one wallet, and its balance.
MOST_FIELDS = 16
# A page of a hundred entries has some 25 KB.
MOST_BYTES = 65_536
# Between two tries of an eviction that Redis refuses at once: one that is restarted is back in less than a second.
RETRY_S = 0.1

ENTRIES, FENCE = "wallet:cache:entries:", "wallet:cache:fence:"

_LUA = Path(__file__).parent / "lua"
READ, FILL, EVICT = (Script.read(_LUA / f"{name}.lua") for name in ("read", "fill", "evict"))


class Eviction(NamedTuple):
    """What was dropped of wallets before a commit: the versions that they have with it, and how that went.

    ``is_kept``: Redis could not be told, so it has to be kept in PostgreSQL. ``seen``: by what it can be recognised
    that Redis still knows; None: nothing is known of that.
    """

    versions: Mapping[int, int]
    is_kept: bool = False
    seen: tuple[int, bytes | None] | None = None

    @property
    def kept(self) -> Mapping[int, int]:
        """What has to be kept: all of it, or nothing."""
        return self.versions if self.is_kept else {}


Evict = Callable[[Mapping[int, int]], Eviction]


class Evictor(Protocol):
    """What a writer needs of a cache. Versions are those that the wallets have once the transaction is committed."""

    def evict(self, versions: Mapping[int, int]) -> Eviction:
        """Drop what is cached, while the wallets are locked."""

    def evict_again(self, eviction: Eviction) -> None:
        """Make sure after the commit that what was cached is gone."""


# For a database whose wallets are not read through a cache.
nobody_caches: Evict = Eviction


class NobodyCaches:
    """The evictor of a database whose wallets are not read through a cache."""

    def evict(self, versions: Mapping[int, int]) -> Eviction:
        """There is nothing to drop."""
        return Eviction(versions)

    def evict_again(self, _eviction: Eviction) -> None:
        """There is nothing to drop."""


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
        self._kept = KeptEvictions(engine, self._tell)
        self._ttl_s = ttl_s
        self._fence_s = int(longest_transaction_s + LATEST_FILL_S) + 1
        beats = RedisLine(connect(BEAT_TIMEOUT_S), [OPEN])
        self.pulse = Pulse(beats, self._kept, longest_transaction_s=longest_transaction_s)
        self.pulse.watch(self.line)

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
            self.pulse.failed()
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
        try:
            (said,) = self.line.ask(
                FILL.call(keys, miss.epoch, miss.noted, version, self._ttl_s, field, payload, MOST_FIELDS, latest_us)
            )
        except redis.ResponseError:
            return False  # out of memory
        except redis.RedisError:
            self.pulse.failed()
            return False
        return bool(said == b"stored")

    def evict(self, versions: Mapping[int, int]) -> Eviction:
        """Drop what is cached of wallets, while they are locked."""
        if not self._ttl_s or not versions:
            return Eviction({})
        seen = None if self.pulse.is_away() else self._insist(versions)
        metrics.cache_evictions["kept" if seen is None else "done"].inc(len(versions))
        return Eviction(versions, is_kept=seen is None, seen=seen)

    def evict_again(self, eviction: Eviction) -> None:
        """Make sure after the commit that what was cached is gone; what cannot be dropped now is kept."""
        if eviction.is_kept:
            return
        missed = eviction.versions
        try:
            missed = {} if self._still_knows(eviction) else self.evict(eviction.versions).kept
        finally:  # also when something unforeseen comes between
            if missed:
                self._kept.keep(missed)

    def _still_knows(self, eviction: Eviction) -> bool:
        """Whether Redis has lost nothing since: it is in the same epoch, and was not restarted."""
        if not eviction.versions:
            return True
        if eviction.seen is None:
            return False
        try:
            (epoch,) = self._writing.ask(("GET", EPOCH))
        except redis.RedisError:
            return False
        return (self._writing.connected, epoch) == eviction.seen

    def settle_kept(self) -> bool:
        """Do evictions that were kept, some at a time, and return whether there were none.

        Raises:
            redis.RedisError: Redis is away.
            Unavailable: PostgreSQL is away.
        """
        return self._kept.settle()

    def close(self) -> None:
        """Hang up."""
        self.pulse.close()
        self.line.close()
        self._writing.close()

    def _insist(self, versions: Mapping[int, int]) -> tuple[int, bytes | None] | None:
        """Tell Redis, and give up only when every reader must have noticed that it fails: see pulse.py."""
        deadline = time.monotonic() + EVICTION_TIMEOUT_S
        while True:
            try:
                return self._tell(versions)
            except redis.RedisError:
                self.pulse.failed()
            if time.monotonic() >= deadline:
                self.pulse.gave_up()
                return None
            if self.pulse.is_away():  # another one has given up meanwhile
                return None
            time.sleep(RETRY_S)

    def _tell(self, versions: Mapping[int, int]) -> tuple[int, bytes | None]:
        """Have Redis drop wallets; return how many connections were made before it had, and in which epoch it did."""
        pairs = [number for pair in versions.items() for number in pair]
        connected = self._writing.connected
        (epoch,) = self._writing.ask(EVICT.call([EPOCH], self._fence_s, ENTRIES, FENCE, *pairs))
        return connected, epoch
