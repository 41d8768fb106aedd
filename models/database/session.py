"""The session of the hot paths: the driver's own words, on connections that SQLAlchemy has made."""

import select
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg2
import psycopg2.extensions
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database import engine as engines
from models.database.engine import read_again
from observe import metrics


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
        """Return a connection that nobody else has, waiting for one no longer than ``POOL_TIMEOUT_S``."""
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
        if not self._seats.acquire(timeout=engines.POOL_TIMEOUT_S):
            raise PoolTimeoutError(f"none of {self.size} connections came free within {engines.POOL_TIMEOUT_S} s")

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

    return read_again(read)
