"""The session of the hot paths: the driver's own words, on connections that SQLAlchemy has made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg2
import psycopg2.extensions
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from models.database.engine import WATCH, read_again
from models.database.pool import BoundedPool, heed
from models.sockets import watch

# Where a connection's record keeps what a session needs of it. SQLAlchemy forgets it with the connection.
_LINE = "line"


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

    __slots__ = ("_dialect", "_entry", "_line", "_pool", "_prologue")

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine.pool, BoundedPool):
            raise TypeError("not an engine of create_bounded_engine")
        self._pool = engine.pool
        self._dialect = engine.dialect
        self._prologue = b""

    def __enter__(self) -> Self:
        try:
            # The one that SQLAlchemy makes; its public face has no connection.
            self._entry: Any = self._pool.take()
            try:
                self._line = self._find_line()
            except BaseException:
                self._pool.give_back(self._entry)
                raise
        except psycopg2.Error as error:
            raise self._translated(error, is_lost=True) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_tidy = False
        try:
            is_tidy = self._line.tidy()
        finally:  # also when whoever runs this is cancelled meanwhile
            if not is_tidy:
                self._entry.invalidate()
            self._pool.give_back(self._entry)
        if isinstance(error, psycopg2.Error):
            heed(error, self._pool)
            raise self._translated(error, is_lost=bool(self._line.driver.closed)) from error

    def begin(self, *, lock_timeout_ms: int | None = None) -> None:
        """Let a transaction begin with the next statement.

        Args:
            lock_timeout_ms: how long its statements may wait for a lock; None: as long as any other's.
        """
        self._prologue = b"BEGIN;"
        if lock_timeout_ms is not None:
            self.bound_locks(lock_timeout_ms)

    def bound_locks(self, timeout_ms: int | None) -> None:
        """Let what runs from the next round trip on, to the end of its transaction, wait no longer for locks.

        Args:
            timeout_ms: None: as long as any other transaction.
        """
        self._prologue += b"SET LOCAL lock_timeout=%s;" % (b"DEFAULT" if timeout_ms is None else b"%d" % timeout_ms)

    def first(self, statement: Statement, *parameters: object) -> None:
        """Run a statement in the round trip of the next one, before it."""
        self._prologue += self._spell(statement, parameters)

    def rows(self, statement: Statement, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement that returns rows."""
        self._execute(statement, parameters, b"")
        return self._line.cursor.fetchall()

    def run(self, statement: Statement, *parameters: object, then: str = "") -> None:
        """Run a statement, and another text after it in the same round trip (``COMMIT``)."""
        self._execute(statement, parameters, then.encode())

    def run_if_free(self, statement: Statement, *parameters: object) -> bool:
        """Run a statement in a transaction, or undo it if somebody holds what it needs; return whether it was done.

        What comes after it in the transaction waits for locks as :meth:`bound_locks` then says.
        """
        self._prologue += b"SAVEPOINT if_free;SET LOCAL lock_timeout=1;"
        try:
            self._execute(statement, parameters, b"RELEASE if_free")
        except LockNotAvailable:
            self._prologue = b""
            self._line.cursor.execute("ROLLBACK TO if_free")
            return False
        return True

    def commit(self) -> None:
        """Make true what was begun."""
        self._line.cursor.execute("COMMIT")

    def rollback(self) -> None:
        """Undo what was begun."""
        self._prologue = b""
        self._line.cursor.execute("ROLLBACK")

    def _execute(self, statement: Statement, parameters: Sequence[object], epilogue: bytes) -> None:
        text = self._prologue + self._spell(statement, parameters) + epilogue
        self._line.cursor.execute(text)
        self._line.learn()
        self._prologue = b""

    def _spell(self, statement: Statement, parameters: Sequence[object]) -> bytes:
        line = self._line
        spelled: bytes = line.cursor.mogrify(statement.execution, parameters) + b";"
        if statement.name in line.prepared or statement.name in line.learning:
            return spelled
        line.learning.add(statement.name)
        return f"{statement.preparation};".encode() + spelled

    def _find_line(self) -> "_Line":
        """Return a connection that lives: a new one in place of one whose server has hung up meanwhile."""
        line = self._line_of_entry()
        if line.has_hung_up():
            self._entry.invalidate()
            line = self._line_of_entry()
        line.driver.autocommit = True
        return line

    def _line_of_entry(self) -> "_Line":
        driver = self._entry.get_connection()
        info: dict[str, Any] = self._entry.info
        if (line := info.get(_LINE)) is None:
            line = info[_LINE] = _Line(driver, info.setdefault(WATCH, watch(driver.fileno())))
        return line

    def _translated(self, error: psycopg2.Error, *, is_lost: bool) -> BaseException:
        """Put the driver's error as SQLAlchemy would."""
        return DBAPIError.instance(
            None, None, error, psycopg2.Error, hide_parameters=True, connection_invalidated=is_lost,
            dialect=self._dialect,
        )  # fmt: skip


class _Line:
    """A connection of the driver's, and what is prepared on it."""

    __slots__ = ("cursor", "driver", "has_hung_up", "learning", "prepared")

    def __init__(self, driver: psycopg2.extensions.connection, has_hung_up: Callable[[], bool]) -> None:
        self.driver = driver
        self.cursor = driver.cursor()
        self.has_hung_up = has_hung_up
        self.prepared: set[str] = set()
        # What is being prepared with the text that is on its way. Whether that was done before something failed is not
        # worth a question: see tidy().
        self.learning: set[str] = set()

    def learn(self) -> None:
        """Note that what was to be prepared is."""
        if self.learning:
            self.prepared |= self.learning
            self.learning.clear()

    def tidy(self) -> bool:
        """Leave nothing behind for whoever is next, and return whether that was possible."""
        try:
            if self.driver.closed:
                return False
            if self.driver.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                self.cursor.execute("ROLLBACK")
            if self.learning:
                self.cursor.execute("DEALLOCATE ALL")
                self.prepared.clear()
                self.learning.clear()
            # As SQLAlchemy, whose connection this may be next, has it.
            self.driver.autocommit = False
        except psycopg2.Error:
            # The server undoes what a lost connection has begun.
            return False
        return True


def read_rows(engine: Engine, statement: Statement, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one prepared reading statement by itself; like :func:`fetch_all` in all else.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time.
    """

    def read() -> list[tuple[Any, ...]]:
        with Session(engine) as session:
            return session.rows(statement, *parameters)

    return read_again(read)
