"""Whether this process may believe the cache: only while it hears from Redis without a gap.

A writer that cannot reach Redis commits all the same, and keeps the eviction in PostgreSQL. When Redis then goes on
with its old data (it hung, or restarted), whoever reads the cache before the kept evictions are done reads what is
over. So a process stops believing as soon as it may have missed something, also one that had nothing to ask meanwhile:

* A writer that gets no answer waits :data:`EVICTION_TIMEOUT_S` before it gives up, and a process that has not heard
  from Redis for :data:`LONGEST_GAP_S` believes it no more. The gap is the shorter one: before any write is answered
  that a hanging Redis was not told of, every reader of that Redis knows that it hangs.
* To believe again it has to hear from Redis for :data:`QUARANTINE_S` without a gap, and then find that no evictions are
  kept. The pause is for the writer that has given up and is just about to commit.
* A Redis with another run id may have come back with older data than it had. Its epoch is replaced, and with it goes
  all that was cached before.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
import structlog

from models.errors import Unavailable
from models.redis_line import RedisLine, Script

EVICTION_TIMEOUT_S = 1.0
LONGEST_GAP_S = 0.75
QUARANTINE_S = 0.5
# Between two beats. Several may be late, on a busy machine, before one is missed.
BEAT_S = 0.2
BEAT_TIMEOUT_S = 0.5
# How often Redis is asked for its memory, in beats.
_MEMORY_EVERY = 10
# Of maxmemory: above this share the cache takes no more, so that the queue always finds room.
MOST_MEMORY = 0.7

EPOCH, SERVER = "wallet:cache:epoch", "wallet:cache:server"
OPEN = Script.read(Path(__file__).parent / "lua" / "cache_open.lua")

_log = structlog.get_logger("cache")


class Pulse:
    """Listens to one Redis from a thread of its own, which begins with the first question and ends with the process."""

    def __init__(
        self, line: RedisLine, settle_kept: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect to nothing yet.

        Args:
            line: to Redis, with an answer timeout of :data:`BEAT_TIMEOUT_S`, for nobody else.
            settle_kept: does evictions that were kept in PostgreSQL; whether none is left.
            clock: seconds that never go back.
        """
        self.has_room = True
        self._line = line
        self._settle_kept = settle_kept
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._beats = 0
        self._believes = False
        # No quarantine at the start of a process: it has believed nothing yet that could have been overtaken.
        self._quarantine_s = 0.0
        # The latest instant at which something was sent that was then answered.
        self._heard_at = float("-inf")
        # Since when it is heard without a gap; None: it is not.
        self._contact_since: float | None = None
        self._away_since: float | None = None

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

    def failed(self, sent_at: float) -> None:
        """Tell that something sent at ``sent_at`` was not answered."""
        with self._lock:
            if self._thread is None:
                self._run()
            if self._away_since is None:
                self._away_since = sent_at
                _log.warning("redis does not answer, the cache is not used")
            self._lose()

    def is_away(self) -> bool:
        """Whether Redis has been silent for long enough that every reader must have noticed."""
        return self._away_since is not None and self._clock() - self._away_since >= EVICTION_TIMEOUT_S

    def run_once(self) -> None:
        """Listen for one beat, and believe again when that is possible."""
        sent_at = self._clock()
        try:
            if self._contact_since is None:
                self._greet()
            else:
                self._ask_for_memory()
        except redis.RedisError:
            self.failed(sent_at)
            return
        with self._lock:
            if self._contact_since is not None and self._clock() - self._heard_at > LONGEST_GAP_S:
                self._lose()
                return
            if self._contact_since is None:
                self._contact_since = sent_at
            self._heard_at = sent_at
            self._away_since = None
            since = self._contact_since
        if not self._believes and self._clock() - since >= self._quarantine_s:
            self._believe_again(since)

    def close(self) -> None:
        """End."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(BEAT_S + 2 * BEAT_TIMEOUT_S)
        self._line.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._closing.is_set():
                return
            self._run()
        # The first one who asks waits for the answer, so that the very first read is served as the others will be.
        self.run_once()

    def _run(self) -> None:
        self._thread = threading.Thread(target=self._beat, name="cache pulse", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            try:
                self.run_once()
            except Exception:  # noqa: BLE001 - without a pulse the cache would stay as it is, for better or worse
                _log.exception("beat broken off")

    def _greet(self) -> None:
        """Find out whether this is the Redis of before."""
        (info,) = self._line.ask(("INFO", "server"))
        self._line.ask(OPEN.call([EPOCH, SERVER], _field(info, b"run_id"), new_epoch()))

    def _ask_for_memory(self) -> None:
        self._beats += 1
        if self._beats % _MEMORY_EVERY:
            self._line.ask(("PING",))
            return
        (info,) = self._line.ask(("INFO", "memory"))
        most = int(_field(info, b"maxmemory") or 0)
        self.has_room = not most or int(_field(info, b"used_memory") or 0) < most * MOST_MEMORY

    def _believe_again(self, since: float) -> None:
        with suppress(Unavailable, redis.RedisError):
            if not self._settle_kept():
                return
            with self._lock:
                if self._contact_since == since:  # nothing was lost meanwhile
                    self._believes = True
                    self._quarantine_s = QUARANTINE_S

    def _lose(self) -> None:
        self._believes = False
        self._contact_since = None


def new_epoch() -> str:
    """Return a word that no epoch had before."""
    return secrets.token_hex(8)


def _field(info: bytes, name: bytes) -> bytes:
    _, found, rest = info.partition(b"\n" + name + b":")
    return rest.partition(b"\r")[0] if found else b""
