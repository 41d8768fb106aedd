"""Reaching PostgreSQL: an engine whose every wait is bounded, and what its errors mean."""

import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from models.database.pool import CountedPool, count_lock_timeout
from models.errors import Unavailable
from observe import metrics

CONNECT_TIMEOUT_S = 2.0
POOL_TIMEOUT_S = 2.0
# How much longer than its own statement_timeout a server may stay silent before it counts as gone.
SILENCE_MARGIN_S = 2.0


class FaultScope(Enum):
    """Whose fault a technical fault is: it decides what is retried, and at whose cost."""

    BATCH = "batch"  # the database's: hand everything back, wait, spend no attempt
    TRANSFER = "transfer"  # one transfer's: isolate it, spend one of its attempts


# SQLSTATE classes and codes, https://www.postgresql.org/docs/18/errcodes-appendix.html:
# 08 connection exception, 53 insufficient resources, 57P operator intervention, 40 transaction rollback.
_BATCH_PREFIXES = ("08", "53", "57P", "40")
# 25P03: the server ended a session that idled in a transaction (a paused process): the work is simply undone.
_BATCH_CODES = frozenset({"25P03", "25P04"})


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names a fault, None when it could not say any."""
    return getattr(error.orig, "pgcode", None)


def scope_of(error: DBAPIError | PoolTimeoutError) -> FaultScope:
    """Tell whether a fault is the whole database's or a single transfer's.

    Without a SQLSTATE the connection broke in mid-sentence, or no connection could be had.
    """
    if isinstance(error, PoolTimeoutError):
        return FaultScope.BATCH
    code = sqlstate(error)
    if code is None:
        lost = error.connection_invalidated or isinstance(
            error.orig, psycopg2.OperationalError | psycopg2.InterfaceError
        )
        return FaultScope.BATCH if lost else FaultScope.TRANSFER
    return FaultScope.BATCH if code.startswith(_BATCH_PREFIXES) or code in _BATCH_CODES else FaultScope.TRANSFER


def first_line(error: BaseException) -> str:
    """Return what an error says in one line: a driver's goes on with the statement, which is nobody's business."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


def is_conflict(error: DBAPIError) -> bool:
    """Whether the transaction lost against another one (deadlock, serialization) and may simply be run again."""
    return (sqlstate(error) or "").startswith("40")


def is_connection_lost(error: DBAPIError) -> bool:
    """Whether the connection is gone, so that the fate of whatever was sent last is not known."""
    code = sqlstate(error)
    return error.connection_invalidated or code is None or code.startswith(("08", "57P"))


def create_bounded_engine(
    url: str,
    *,
    timeouts_ms: Mapping[str, int],
    pool_size: int,
    application_name: str,
) -> Engine:
    """Make an engine. Nothing is connected yet.

    Args:
        url: SQLAlchemy's spelling, ``postgresql+psycopg2://…``.
        timeouts_ms: PostgreSQL's ``lock_timeout``, ``statement_timeout`` and
            ``idle_in_transaction_session_timeout``; set on every connection.
        pool_size: connections at most; who finds none free waits :data:`POOL_TIMEOUT_S` and is refused.
        application_name: what the connection is called in pg_stat_activity.
    """
    options = " ".join(f"-c {name}={value}" for name, value in timeouts_ms.items())
    # An abandoned statement ends on the server too, soon after its client has gone.
    options += " -c client_connection_check_interval=1000"
    # What is prepared here (Session) finds its rows by key: planning it anew for every value would cost more than it.
    options += " -c plan_cache_mode=force_generic_plan"
    silence_s = timeouts_ms["statement_timeout"] / 1000 + SILENCE_MARGIN_S
    _wait_no_longer_than(silence_s)
    engine = create_engine(
        url,
        poolclass=CountedPool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,
        # An error that is logged shows its statement, not what was in it: keys and amounts are the users' own.
        hide_parameters=True,
        connect_args={"options": options, "application_name": application_name},
    )
    event.listen(engine, "checkout", _refuse_dead)
    event.listen(engine, "handle_error", count_lock_timeout)
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Connect and begin; commit at the end, roll back on the way out of an error.

    Raises:
        Unavailable: whatever goes wrong with the database, for callers to whom it is all the same.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, PoolTimeoutError) as error:
        raise Unavailable from error


def _refuse_dead(connection: psycopg2.extensions.connection, record: ConnectionPoolEntry, *_: object) -> None:
    """Let the pool replace a connection whose server has hung up meanwhile.

    A server says nothing on an idle connection but goodbye. Found out here, before anything was sent, it costs a new
    connection; found out later, it would leave in doubt what became of a commit. A new connection is taken as it is:
    the pool would not try a third one, and raise an error that says nothing of the database.
    """
    is_new = not record.info
    record.info["used"] = True
    if is_new:
        return
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if poller.poll(0):
        raise DisconnectionError


def fetch_all(engine: Engine, statement: Executable) -> Sequence[Row[Any]]:
    """Run one reading statement by itself and return its rows.

    A read is safe to repeat: a connection that a restarted server left dead in the pool costs one more try, and
    since SQLAlchemy then throws away the whole pool's, the second try connects anew.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time.
    """

    def read() -> Sequence[Row[Any]]:
        # A single statement needs no transaction around it, which would be two more round trips.
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            return connection.execute(statement).all()

    return _read_again(read)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a hot path, prepared once on each connection.

    ``name``: what it is called there. ``types``: PostgreSQL's, of its parameters ``$1`` and on, at
    least one. ``sql``: its text.
    """

    name: str
    types: tuple[str, ...]
    sql: str

    @property
    def preparation(self) -> str:
        """What makes the server know it. A percent sign would be taken for a parameter, so none may stand in it."""
        return f"PREPARE {self.name} ({', '.join(self.types)}) AS {self.sql}"

    @property
    def execution(self) -> str:
        """What runs it, with the driver's places for its parameters."""
        return f"EXECUTE {self.name} ({', '.join(['%s'] * len(self.types))})"


class Session:
    """A connection in the driver's own words, for paths on which SQLAlchemy would cost more than the work.

    Statements are prepared, and each call is one round trip. Nothing is in a transaction unless :meth:`begin` said so,
    which costs no round trip of its own. Use it as a context manager: what was begun and not committed is undone.

    Raises:
        sqlalchemy.exc.DBAPIError: whatever the driver raises, as SQLAlchemy would put it.
        sqlalchemy.exc.TimeoutError: no connection is free.
    """

    __slots__ = ("_line", "_prologue", "_shelf")

    def __init__(self, engine: Engine) -> None:
        self._shelf = _shelf_of(engine)
        self._prologue = ""

    def __enter__(self) -> Self:
        self._line = self._shelf.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shelf.put_back(self._line)
        if isinstance(error, psycopg2.Error):
            if isinstance(error, LockNotAvailable):
                metrics.db_lock_timeouts.inc()
            raise self._shelf.translated(error, is_lost=bool(self._line.driver.closed)) from error

    def begin(self) -> None:
        """Let a transaction begin with the next statement."""
        self._prologue = "BEGIN;"

    def rows(self, statement: Statement, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement that returns rows."""
        self._execute(statement, parameters, "")
        return self._line.cursor.fetchall()

    def run(self, statement: Statement, *parameters: object, then: str = "") -> None:
        """Run a statement, and another text after it in the same round trip (``COMMIT``)."""
        self._execute(statement, parameters, then)

    def rollback(self) -> None:
        """Undo what was begun."""
        self._prologue = ""
        self._line.cursor.execute("ROLLBACK")

    def _execute(self, statement: Statement, parameters: Sequence[object], epilogue: str) -> None:
        prepared = self._line.prepared
        text = f"{statement.execution};{epilogue}"
        if statement.name not in prepared:
            text = f"{statement.preparation};{text}"
            # Whether it was prepared before something failed is not worth a question: see _Shelf.put_back().
            self._line.in_doubt = True
        self._line.cursor.execute(self._prologue + text, parameters)
        self._line.in_doubt = False
        self._prologue = ""
        prepared.add(statement.name)


class _Line:
    """A connection of the driver's that was taken out of SQLAlchemy's pool for good."""

    __slots__ = ("_poller", "cursor", "driver", "in_doubt", "prepared")

    def __init__(self, driver: psycopg2.extensions.connection) -> None:
        self.driver = driver
        self.driver.autocommit = True
        self.cursor = driver.cursor()
        self.prepared: set[str] = set()
        self.in_doubt = False
        self._poller = select.poll()
        self._poller.register(driver.fileno(), select.POLLIN)

    def lives(self) -> bool:
        """Whether it can be used: a server says nothing on an idle connection but goodbye."""
        return not self.driver.closed and not self._poller.poll(0)

    def tidy(self) -> bool:
        """Leave nothing behind for whoever is next, and return whether that was possible."""
        try:
            if self.driver.closed:
                return False
            if self.driver.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                self.cursor.execute("ROLLBACK")
            if self.in_doubt:
                self.cursor.execute("DEALLOCATE ALL")
                self.prepared.clear()
                self.in_doubt = False
        except psycopg2.Error:
            # The server undoes what a lost connection has begun.
            return False
        return True


class _Shelf:
    """An engine's connections for :class:`Session`, as many as its pool has at most; the one used last is used next.

    SQLAlchemy's own pool does the same, at some 80 µs for a check-out and a return, which is more than a statement.
    """

    def __init__(self, engine: Engine) -> None:
        self._connect = weakref.WeakMethod(engine.raw_connection)
        self._dialect = engine.dialect
        self.size: int = getattr(engine.pool, "size", lambda: 1)()
        self._seats = threading.BoundedSemaphore(self.size)
        self._idle: deque[_Line] = deque()

    @property
    def idle(self) -> int:
        """How many connections are open and unused."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many connections are somebody's now."""
        return self.size - self._seats._value  # noqa: SLF001 - a figure for a metric

    def take(self) -> _Line:
        """Return a connection that nobody else has, waiting for one at most :data:`POOL_TIMEOUT_S`."""
        if not self._seats.acquire(blocking=False):
            metrics.db_pool_waits.inc()
            self._wait_for_seat()
        try:
            while self._idle:
                with suppress(IndexError):  # somebody was faster
                    line = self._idle.pop()
                    if line.lives():
                        return line
                    line.driver.close()
            return self._make()
        except BaseException:
            self._seats.release()
            raise

    def _wait_for_seat(self) -> None:
        if not self._seats.acquire(timeout=POOL_TIMEOUT_S):
            raise PoolTimeoutError(f"none of {self.size} connections came free within {POOL_TIMEOUT_S} s")

    def put_back(self, line: _Line) -> None:
        """Let others use a connection, or do away with it if it is of no more use."""
        if line.tidy():
            self._idle.append(line)
        else:
            line.driver.close()
        self._seats.release()

    def clear(self) -> None:
        """Close what nobody uses."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().driver.close()

    def translated(self, error: psycopg2.Error, *, is_lost: bool) -> BaseException:
        """Put the driver's error as SQLAlchemy would."""
        return DBAPIError.instance(
            None, None, error, psycopg2.Error, hide_parameters=True, connection_invalidated=is_lost,
            dialect=self._dialect,
        )  # fmt: skip

    def _make(self) -> _Line:
        if (connect := self._connect()) is None:
            raise AssertionError("an engine that is gone was asked for a connection")
        try:
            pooled = connect()
        except psycopg2.Error as error:
            raise self.translated(error, is_lost=True) from error
        driver: Any = pooled.dbapi_connection
        pooled.detach()
        return _Line(driver)


_shelves: weakref.WeakKeyDictionary[Engine, _Shelf] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _shelf_of(engine: Engine) -> _Shelf:
    shelf = _shelves.get(engine)
    if shelf is None:
        with _making:
            if (shelf := _shelves.get(engine)) is None:
                shelf = _shelves[engine] = _Shelf(engine)
                event.listen(engine, "engine_disposed", lambda _engine: shelf.clear())
    return shelf


def read_rows(engine: Engine, statement: Statement, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one prepared reading statement by itself; like :func:`fetch_all` in all else.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time.
    """

    def read() -> list[tuple[Any, ...]]:
        with Session(engine) as session:
            return session.rows(statement, *parameters)

    return _read_again(read)


_Rows = TypeVar("_Rows")


def _read_again(read: Callable[[], _Rows]) -> _Rows:
    for is_last in (False, True):
        try:
            return read()
        except PoolTimeoutError as error:
            raise Unavailable from error
        except DBAPIError as error:
            if is_last or not is_connection_lost(error):
                raise Unavailable from error
    raise AssertionError("unreachable")


def _wait_no_longer_than(silence_s: float) -> None:
    """Install the wait callback, unless one that is more patient is there already: another engine needs it."""
    installed = psycopg2.extensions.get_wait_callback()
    if not isinstance(installed, _Deadline) or installed.silence_s < silence_s:
        psycopg2.extensions.set_wait_callback(_Deadline(silence_s))


class _Deadline:
    """psycopg2's wait callback: gives up on a server that has stopped answering.

    statement_timeout runs on the server, so it is of no help against a server that hangs; and with
    psycopg2's own waiting, in C and without an end, such a server would hold every thread for ever.
    A callback is process-wide: the bound is the largest statement_timeout in use, and some.
    """

    def __init__(self, silence_s: float) -> None:
        self.silence_s = silence_s

    def __call__(self, connection: psycopg2.extensions.connection) -> None:
        deadline = time.monotonic() + (self.silence_s if connection.status else CONNECT_TIMEOUT_S)
        poller: select.poll | None = None
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            if poller is None:
                poller = select.poll()
            wanted = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
            poller.register(connection.fileno(), wanted)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poller.poll(left_s * 1000):
                raise psycopg2.OperationalError("the server has stopped answering")
