"""Whether this process may believe the cache: only while it hears from Redis without a gap.

A writer that cannot reach Redis commits all the same, and keeps the eviction in PostgreSQL. When Redis then goes on
with its old data (it hung, or it was restarted), whoever reads the cache before the kept evictions are done reads what
is over. So a process stops believing as soon as it may have missed something, also one that had nothing to ask:

* A writer whom Redis does not answer, or refuses, insists for :data:`EVICTION_TIMEOUT_S` before it gives up, and a
  process that has not heard from Redis for :data:`LONGEST_GAP_S` believes it no more. The gap is the shorter one: when
  a write is answered that Redis was not told of, every reader of that Redis knows that something is wrong with it.
  What counts is when a question was *sent*: an answer says nothing of the time that it took. And the beat is a command
  that writes, since a Redis that may only be read (a full disk, a replica) would answer anything else.
* A restarted Redis has hung up on everybody. Whoever answers on a new connection is therefore asked who it is
  (:meth:`Pulse.watch`), and if it is not the Redis of before, belief is lost, however short the gap was. It may
  have come back with older data than it had, so its epoch is replaced, and with it goes all that was cached.
* To believe again a process has to hear from Redis for :data:`QUARANTINE_S` without a gap. That is longer than a writer
  takes to give up, and longer than it trusts its own finding that Redis is away (:data:`AWAY_S`): whoever gives up
  later than that was cut off while we were not. Those who gave up before may not have committed yet, but their wallets
  are locked: it waits for every transaction that writes to a wallet at that moment, and only then looks for kept
  evictions. It believes when there are none.
* What is cached belongs to one set of books. Whose it is stands beside the epoch, which is replaced when whoever greets
  Redis works on others: on another database, or on this one restored. Each new connection to PostgreSQL says whose
  they are, and the next beat heeds it.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import redis
import structlog

from models.errors import Unavailable
from models.redis_line.line import RedisLine, Script
from observe import background

EVICTION_TIMEOUT_S = 1.0
LONGEST_GAP_S = 0.75
AWAY_S = 1.2
QUARANTINE_S = 1.5
# Between two beats. Several may be late, on a busy machine, before one is missed.
BEAT_S = 0.2
BEAT_TIMEOUT_S = 0.5
# How often Redis is asked for its memory, in beats.
_MEMORY_EVERY = 10
# Of maxmemory: above this share the cache takes no more, so that the queue always finds room.
MOST_MEMORY = 0.7

EPOCH, SERVER = "wallet:cache:epoch", "wallet:cache:server"
OPEN = Script.read(Path(__file__).parent / "lua" / "open.lua")
# Writes nothing, and is refused wherever writing is: an eviction would be, too.
_BEAT = ("DEL", "wallet:cache:nothing")

_log = structlog.get_logger("cache")


class Kept(Protocol):
    """Where evictions are kept that could not reach Redis: see :class:`models.cache.kept_evictions.KeptEvictions`."""

    def find_books(self) -> str | None:
        """Return a word that tells these books from others, and from themselves before a restore; None: not known."""

    def find_writers(self) -> set[str]:
        """Return the transactions that may be about to keep some."""

    def settle(self) -> bool:
        """Do some of them, and return whether there were none."""


@dataclass(slots=True, eq=False)
class _Contact:
    """A time in which Redis is heard without a gap.

    ``is_open``: it has been greeted. ``met``: who answered on connections that were made before that.
    ``writers``: those that are still waited for; None: not known yet.
    """

    since: float
    is_open: bool = False
    met: set[bytes] = field(default_factory=set)
    writers: set[str] | None = None


class Pulse:
    """Listens to one Redis from a thread of its own, which begins with the first question and ends with the process."""

    def __init__(
        self,
        line: RedisLine,
        kept: Kept,
        *,
        longest_transaction_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            line: to Redis, with an answer timeout of :data:`BEAT_TIMEOUT_S`, for nobody else.
            kept: evictions that could not reach Redis.
            longest_transaction_s: how long a writer is waited for at most.
            clock: seconds that never go back.
        """
        self.has_room = True
        self._line = line
        self._kept = kept
        self._longest_transaction_s = longest_transaction_s
        self._clock = clock
        self._lock = threading.Lock()
        self._beating = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._beats = 0
        self._believes = False
        # No quarantine at the start of a process: it has seen no fault yet.
        self._quarantine_s = 0.0
        # The latest instant at which something was sent that was then answered.
        self._heard_at = float("-inf")
        self._contact: _Contact | None = None
        self._run_id: bytes | None = None
        self._books: str | None = None
        self._is_silent = self._is_away = False
        self._failed_at = float("-inf")
        self.watch(line)

    def watch(self, line: RedisLine) -> None:
        """Be told by a line to the same Redis who it is that answers on a new connection."""
        line.meet = self._meet

    def believes(self) -> bool:
        """Whether the cache may be asked now."""
        if self._thread is None:
            self._start()
        return self._believes and self._clock() - self._heard_at <= LONGEST_GAP_S

    def believed(self, sent_at: float) -> bool:
        """Whether an answer to something sent at ``sent_at`` may be served: whether no gap has come before it."""
        if not self._believes or self._clock() - self._heard_at > LONGEST_GAP_S:
            return False
        self._heard_at = max(self._heard_at, sent_at)
        return True

    def failed(self) -> None:
        """Tell that Redis has just not answered, or refused."""
        with self._lock:
            if self._thread is None:
                self._run()
            if not self._is_silent:
                self._is_silent = True
                _log.warning("redis does not answer, the cache is not used")
            self._failed_at = self._clock()
            self._lose()

    def gave_up(self) -> None:
        """Tell that Redis has failed a writer for :data:`EVICTION_TIMEOUT_S`: every reader must have noticed."""
        self._is_away = True

    def is_away(self) -> bool:
        """Whether a writer may give up at once: one has given up, and Redis has not answered since."""
        return self._is_away and self._clock() - self._failed_at <= AWAY_S

    def run_once(self) -> None:
        """Listen for one beat, and believe again when that is possible."""
        with self._beating:
            if not self._knows_books():
                return
            sent_at = self._clock()
            with self._lock:
                if self._contact is None:
                    self._contact = _Contact(sent_at)
                contact = self._contact
            try:
                if contact.is_open:
                    self._listen()
                else:
                    self._greet()
            except redis.RedisError:
                self.failed()
                return
            if self._heard(contact, sent_at) and not self._believes:
                self._believe_again(contact)

    def close(self) -> None:
        """End."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(BEAT_S + 2 * BEAT_TIMEOUT_S)
        with self._lock:
            self._lose()
        self._line.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closing.is_set():
                return
            self._run()
        # The first one who asks waits for the answer, so that the very first read is served as the others will be.
        with background.guarded("cache_pulse"):
            self.run_once()

    def _run(self) -> None:
        self._thread = background.start("cache_pulse", self._beat)

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            self.run_once()

    def _meet(self, info: bytes) -> None:
        """Be told who answers on a new connection."""
        run_id = _field(info, b"run_id")
        with self._lock:
            if self._contact is not None and not self._contact.is_open:
                self._contact.met.add(run_id)
            elif run_id != self._run_id:
                self._lose()

    def _knows_books(self) -> bool:
        """Look whose wallets are read here, and return whether that is known."""
        books = self._kept.find_books()
        if books is not None and books != self._books:
            with self._lock:
                if self._books is not None:
                    _log.warning("another database, or another state of it: nothing that is cached is believed")
                    self._lose()
                self._books = books
        return books is not None

    def _greet(self) -> None:
        """Find out whether this is the Redis of before, and whether what it has is of these books."""
        info, memory = self._line.ask(("INFO", "server"), ("INFO", "memory"))
        self._run_id = _field(info, b"run_id")
        whose = b"%b %b" % (self._run_id, (self._books or "").encode())
        self._line.ask(OPEN.call([EPOCH, SERVER], whose, new_epoch()))
        self._measure(memory)

    def _listen(self) -> None:
        self._beats += 1
        if self._beats % _MEMORY_EVERY:
            self._line.ask(_BEAT)
        else:
            _, memory = self._line.ask(_BEAT, ("INFO", "memory"))
            self._measure(memory)

    def _measure(self, info: bytes) -> None:
        most = int(_field(info, b"maxmemory") or 0)
        self.has_room = not most or int(_field(info, b"used_memory") or 0) < most * MOST_MEMORY

    def _heard(self, contact: _Contact, sent_at: float) -> bool:
        """Note an answer, unless there was a gap before it, and return whether the contact goes on."""
        with self._lock:
            if self._contact is not contact:  # lost meanwhile
                return False
            is_gap = self._clock() - (self._heard_at if contact.is_open else sent_at) > LONGEST_GAP_S
            if is_gap or (not contact.is_open and contact.met - {self._run_id}):
                self._lose()
                return False
            contact.is_open = True
            self._heard_at = sent_at
            self._is_silent = self._is_away = False
            return True

    def _believe_again(self, contact: _Contact) -> None:
        contact_s = self._clock() - contact.since
        if contact_s < self._quarantine_s:
            return
        with suppress(Unavailable, redis.RedisError):
            writers = self._kept.find_writers()
            contact.writers = writers if contact.writers is None else contact.writers & writers
            if contact.writers and contact_s < self._quarantine_s + self._longest_transaction_s:
                return
            if self._kept.settle():
                with self._lock:
                    self._believes = self._contact is contact  # nothing was lost meanwhile

    def _lose(self) -> None:
        self._believes = False
        self._contact = None
        self._quarantine_s = QUARANTINE_S


def new_epoch() -> str:
    """Return a word that no epoch had before. It is no secret, and drawn for every question."""
    return f"{random.getrandbits(64):016x}"


def _field(info: bytes, name: bytes) -> bytes:
    _, found, rest = info.partition(b"\n" + name + b":")
    return rest.partition(b"\r")[0] if found else b""
