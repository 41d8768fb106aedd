"""The one set of connections of a process: so many at most, whoever wants one and however."""

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from psycopg2.errors import LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import ExceptionContext, Pool
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from observe import metrics

# Who finds none free waits this long, and is refused.
TIMEOUT_S = 2.0
# A connection that nobody has wanted for this long is closed: what one process does not use, another one may need.
MOST_IDLE_S = 60.0
# And one of this age when it is next wanted: a server's memory for a session only grows.
MOST_AGE_S = 1_800.0


class BoundedPool(Pool):
    """SQLAlchemy's kind of pool: the connection used last is used next, and those that are not needed go.

    Besides engines, :class:`models.database.session.Session` takes its connections here, without the wrapping that
    SQLAlchemy puts around each.
    """

    def __init__(self, creator: Any, pool_size: int, kept: int = 0, **options: Any) -> None:
        """``pool_size``: connections at most; ``kept``: of these so many stay open though nobody wants them."""
        super().__init__(creator, **options)
        self._size = pool_size
        self._kept = kept
        self._seats = threading.Semaphore(pool_size)
        # The one used last stands right, beside when it was.
        self._idle: deque[tuple[float, ConnectionPoolEntry]] = deque()
        self._lock = threading.Lock()
        self._is_tended = self._is_disposed = False

    def size(self) -> int:
        """How many connections there are at most."""
        return self._size

    def checkedin(self) -> int:
        """How many are open and nobody's."""
        return len(self._idle)

    def take(self) -> ConnectionPoolEntry:
        """Return a connection that is nobody else's, to be given back by :meth:`give_back`.

        Raises:
            sqlalchemy.exc.TimeoutError: none came free within :data:`TIMEOUT_S`.
        """
        if not self._seats.acquire(blocking=False):
            metrics.db_pool_waits.inc()
            if not self._seats.acquire(timeout=TIMEOUT_S):
                raise PoolTimeoutError(f"none of {self._size} connections came free within {TIMEOUT_S} s")
        try:
            with suppress(IndexError):
                return self._idle.pop()[1]
            return self._create_connection()
        except BaseException:
            self._seats.release()
            raise

    def give_back(self, record: ConnectionPoolEntry) -> None:
        """Let others have a connection."""
        if self._is_disposed:
            record.close()
        else:
            self._idle.append((time.monotonic(), record))
            if not self._is_tended and len(self._idle) > self._kept:
                self._tend_later()
        self._seats.release()

    def renew(self) -> None:
        """Let every connection that there is now be replaced when it is next wanted."""
        # SQLAlchemy's own way for all that were opened before a server went away.
        self._invalidate_time = time.time()

    # As SQLAlchemy calls them.
    _do_get = take
    _do_return_conn = give_back

    def recreate(self) -> "BoundedPool":
        """Return another pool like this one."""
        return type(self)(
            self._creator,
            pool_size=self._size,
            kept=self._kept,
            recycle=self._recycle,
            reset_on_return=self._reset_on_return,
            dialect=self._dialect,
            _dispatch=self.dispatch,
        )

    def dispose(self) -> None:
        """Close what nobody uses; what somebody does is closed when it comes back."""
        self._is_disposed = True
        self._close_idle(float("inf"), kept=0)

    def status(self) -> str:
        """Tell how it stands."""
        return f"{self._size} connections at most, {self.checkedin()} of them idle"

    def _tend_later(self, after_s: float | None = None) -> None:
        with self._lock:
            if after_s is None and self._is_tended:
                return
            self._is_tended = True
        timer = threading.Timer(MOST_IDLE_S if after_s is None else after_s, self._tend)
        timer.daemon = True
        timer.start()

    def _tend(self) -> None:
        """Close what has been idle for too long, and come back when the next one will have been."""
        self._close_idle(time.monotonic() - MOST_IDLE_S, kept=self._kept)
        with suppress(IndexError):
            if len(self._idle) > self._kept:
                self._tend_later(max(1.0, self._idle[0][0] + MOST_IDLE_S - time.monotonic()))
                return
        self._is_tended = False
        if len(self._idle) > self._kept:  # given back after the look, and before that was said
            self._tend_later()

    def _close_idle(self, since: float, *, kept: int) -> None:
        """Close those that have been idle since then, but for so many."""
        while len(self._idle) > kept:
            try:
                oldest = self._idle.popleft()
            except IndexError:
                return
            if oldest[0] > since:
                # Used again meanwhile, or not idle for long: its place is at the left, as it was.
                self._idle.appendleft(oldest)
                return
            oldest[1].close()


def look_at_error(context: ExceptionContext) -> None:
    """Look at an error on its way out of an engine."""
    if context.engine is not None and isinstance(context.engine.pool, BoundedPool):
        heed(context.original_exception, context.engine.pool)


def heed(error: BaseException | None, pool: BoundedPool) -> None:
    """Do what an error asks for, whoever has met with it."""
    if isinstance(error, LockNotAvailable):
        metrics.db_lock_timeouts.inc()
    elif isinstance(error, ReadOnlySqlTransaction):
        # The server has become a standby, or somebody else's. Another one may take writes by now.
        pool.renew()
