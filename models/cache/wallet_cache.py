"""Cached reads of wallets, in Redis: fast, and never older than what was answered before.

One hash per wallet holds what was read of it (its balance, pages of its history), all of one version, so evicting a
wallet is one command and leaves no page behind. The classic race (a reader reads the old row, a writer commits and
evicts, the reader stores the old row) is closed by four things, each of which is for something that the others leave
open (tests/models/cache/test_cache_model.py goes through the interleavings):

* the *fence*: an eviction leaves the wallet's new version behind, and what is older is not stored;
* evicting *before* the commit, when the new version is known, so that a writer killed after it leaves nothing stale;
* evicting *again* after the commit, for a Redis that lost its data in between;
* the *epoch*, a word that is lost with Redis's data: a reader notes it at the miss, and stores nothing in another one.

An eviction that cannot reach Redis is kept in PostgreSQL, in the transaction that it belongs to, and done by whoever
first finds it there (kept_evictions.py). When a process may believe what the cache says, pulse.py knows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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

    def evict(self, versions: Mapping[int, int]) -> Mapping[int, int]:
        """Drop what is cached of wallets; return what could not be dropped and has to be kept: all, or nothing."""
        if not self._ttl_s or not versions:
            return {}
        is_told = not self.pulse.is_away() and self._insist(versions)
        metrics.cache_evictions["done" if is_told else "kept"].inc(len(versions))
        return {} if is_told else versions

    def evict_again(self, versions: Mapping[int, int]) -> None:
        """Drop what is cached of wallets after the commit; what cannot be dropped is kept."""
        if missed := self.evict(versions):
            self._kept.keep(missed)

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

    def _insist(self, versions: Mapping[int, int]) -> bool:
        """Tell Redis, and give up only when every reader must have noticed that it fails: see pulse.py."""
        deadline = time.monotonic() + EVICTION_TIMEOUT_S
        while True:
            try:
                self._tell(versions)
            except redis.RedisError:
                self.pulse.failed()
            else:
                return True
            if time.monotonic() >= deadline:
                self.pulse.gave_up()
                return False
            if self.pulse.is_away():  # another one has given up meanwhile
                return False
            time.sleep(RETRY_S)

    def _tell(self, versions: Mapping[int, int]) -> None:
        pairs = [number for pair in versions.items() for number in pair]
        self._writing.ask(EVICT.call([], self._fence_s, ENTRIES, FENCE, *pairs))
