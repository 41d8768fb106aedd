"""An engine whose every wait is bounded."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions
from sqlalchemy import Connection, Engine, Executable, Row, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from models.database.connecting import connect_timeout_s, create_engine_of, libpq_parameters
from models.database.faults import is_connection_lost
from models.database.pool import MOST_AGE_S, BoundedPool, look_at_error
from models.errors import Unavailable
from models.sockets import patience, wait_until_ready, watch

_Rows = TypeVar("_Rows")

_SESSION = (
    # The ledger's rules (locks first, then what they protect is read) are made for it, whatever a server's default.
    r"-c default_transaction_isolation=read\ committed",
    # An abandoned statement ends on the server too, soon after its client has gone.
    "-c client_connection_check_interval=1000",
    # What is prepared (session.py) finds its rows by key: planning it anew for every value would cost more than it. And
    # a plan that was made on small tables must not go through all of a large one later, nor through all of an index.
    "-c plan_cache_mode=force_generic_plan",
    "-c enable_seqscan=off",
    "-c enable_hashjoin=off",
    "-c enable_mergejoin=off",
    "-c enable_material=off",
    # To compile a plan takes longer than to run any of ours, and is begun for whatever looks costly.
    "-c jit=off",
)
# The name under which an engine tells how long its connections wait for locks, in milliseconds; 0: without end.
LOCK_TIMEOUT = "wallet_lock_timeout_ms"
# The same of an engine whose statements end earlier than its connections would have it.
STATEMENT_TIMEOUT = "wallet_statement_timeout_ms"
# Where an engine keeps whose books they are to which it has connected last.
_BOOKS = "wallet_books"
# What another database cannot have, nor this one after it was restored: the start of a server on another copy of its
# files, the file of a table that was made or filled anew.
_FIND_BOOKS = """
SELECT concat_ws('.', extract(epoch FROM pg_postmaster_start_time()),
    pg_relation_filenode(to_regclass('wallets')), (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
# Where a connection's record keeps what tells whether its server has hung up.
WATCH = "watch"
# How much longer than its own statement_timeout a server may stay silent before it counts as gone.
SILENCE_MARGIN_S = 2.0
# What can hold every key and every name, as many characters as there may be.
ENCODING = "UTF8"
# How often a thread that waits for a server sees to what it has to do meanwhile.
TICK_S = 0.5


def create_bounded_engine(
    url: str,
    *,
    timeouts_ms: Mapping[str, int],
    pool_size: int,
    application_name: str,
    kept: int = 0,
) -> Engine:
    """Make an engine. Nothing is connected yet.

    Args:
        url: libpq's spelling, ``postgresql://…``, with any number of hosts; the driver may be named.
        timeouts_ms: PostgreSQL's ``lock_timeout``, ``statement_timeout`` and
            ``idle_in_transaction_session_timeout``; set on every connection.
        pool_size: connections at most; who finds none free waits :data:`models.database.pool.TIMEOUT_S` and is refused.
        kept: connections of these that stay open though nobody has wanted them for a while.
        application_name: what the connection is called in pg_stat_activity, unless the URL says something else.
    """
    given = libpq_parameters(url)
    # What the URL says of the session comes first, for where both say something ours is what the service rests on.
    bounds = (f"-c {key}={value}" for key, value in timeouts_ms.items())
    options = " ".join([given.get("options", ""), *_SESSION, *bounds]).strip()
    silence_s = timeouts_ms["statement_timeout"] / 1000 + SILENCE_MARGIN_S
    wait_no_longer_than(silence_s)
    books: list[str] = []
    engine = create_engine_of(
        url,
        override={
            "options": options,
            "application_name": given.get("application_name", application_name),
            # A role's or a server's own idea of how a client spells its texts must not matter.
            "client_encoding": ENCODING,
        },
        poolclass=BoundedPool,
        pool_size=pool_size,
        kept=kept,
        pool_recycle=MOST_AGE_S,
        # An error that is logged shows its statement, not what was in it: keys and amounts are the users' own.
        hide_parameters=True,
        execution_options={LOCK_TIMEOUT: timeouts_ms.get("lock_timeout", 0), _BOOKS: books},
    )

    def note_books(connection: psycopg2.extensions.connection, *_: object) -> None:
        books[:] = [_find_books(connection)]

    event.listen(engine, "connect", refuse_other_encodings)
    event.listen(engine, "connect", note_books)
    event.listen(engine, "checkout", _refuse_dead)
    event.listen(engine, "handle_error", look_at_error)
    return engine


def commit_without_waiting(engine: Engine) -> None:
    """Have commits of an engine that has not connected yet not wait for PostgreSQL's disk.

    A crash of PostgreSQL may take back those of its last moment, the last ones first: for what is then done once more.
    """

    def prepare(connection: psycopg2.extensions.connection, *_: object) -> None:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")
        connection.autocommit = False

    event.listen(engine, "connect", prepare)


def less_patient(engine: Engine, statement_timeout_ms: int) -> Engine:
    """Return an engine on the same connections whose statements end earlier, for :func:`transaction` and all reads.

    Every other way of using it waits as long as ever.
    """
    return engine.execution_options(**{STATEMENT_TIMEOUT: statement_timeout_ms})


def last_books(engine: Engine) -> str | None:
    """Return a word that tells the books an engine has connected to last from others, and from themselves as they were.

    They are others behind another URL, and also when the database was restored meanwhile. None: it has not connected.
    """
    books: list[str] = engine.get_execution_options()[_BOOKS]
    return books[0] if books else None


def _find_books(connection: psycopg2.extensions.connection) -> str:
    """Ask whose books they are: once for each connection, which is long after the last one or after a fault."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_FIND_BOOKS)
        word: str = cursor.fetchall()[0][0]
    connection.autocommit = False
    return word


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Connect and begin; commit at the end, roll back on the way out of an error.

    Raises:
        Unavailable: whatever goes wrong with the database, for callers to whom it is all the same.
    """
    try:
        with engine.begin() as connection:
            if (timeout_ms := engine.get_execution_options().get(STATEMENT_TIMEOUT)) is not None:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(timeout_ms)}")
            yield connection
    except (DBAPIError, PoolTimeoutError) as error:
        raise Unavailable from error


def refuse_other_encodings(connection: psycopg2.extensions.connection, *_: object) -> None:
    """Work with no database that counts bytes for characters, or cannot hold all of them.

    The server says how it encodes with its greeting, so this costs no question.

    Raises:
        psycopg2.InterfaceError: it is another encoding.
    """
    encoding = connection.get_parameter_status("server_encoding")
    if encoding != ENCODING:
        name = connection.info.dbname
        connection.close()
        raise psycopg2.InterfaceError(
            f"the database {name} has the encoding {encoding}: make one with {ENCODING}"
            f" (CREATE DATABASE … ENCODING '{ENCODING}' TEMPLATE template0)"
        )


def _refuse_dead(connection: psycopg2.extensions.connection, record: ConnectionPoolEntry, *_: object) -> None:
    """Let the pool replace a connection whose server has hung up meanwhile.

    A server says nothing on an idle connection but goodbye. Found out here, before anything was sent, it costs a new
    connection; found out later, it would leave in doubt what became of a commit. A new connection is taken as it is:
    the pool would not try a third one, and raise an error that says nothing of the database.
    """
    if (has_hung_up := record.info.get(WATCH)) is None:
        record.info[WATCH] = watch(connection.fileno())
    elif has_hung_up():
        raise DisconnectionError


def fetch_all(engine: Engine, statement: Executable) -> Sequence[Row[Any]]:
    """Run one reading statement by itself and return its rows.

    A read is safe to repeat: a connection that a restarted server left dead in the pool costs one more try, and
    since SQLAlchemy then throws away the whole pool's, the second try connects anew.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time.
    """
    return read_again(lambda: _run_alone(engine, statement))


def write_alone(engine: Engine, statement: Executable) -> Sequence[Row[Any]]:
    """Run one writing statement as a transaction by itself, once, and return its rows.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time; it may have been done all the same.
    """
    try:
        return _run_alone(engine, statement)
    except (DBAPIError, PoolTimeoutError) as error:
        raise Unavailable from error


def _run_alone(engine: Engine, statement: Executable) -> Sequence[Row[Any]]:
    if STATEMENT_TIMEOUT in engine.get_execution_options():
        with transaction(engine) as connection:
            return connection.execute(statement).all()
    # A single statement needs no transaction around it, which would be two more round trips.
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return connection.execute(statement).all()


def read_again(read: Callable[[], _Rows]) -> _Rows:
    """Call what reads, and once more if its connection turned out to be lost.

    Raises:
        Unavailable: the database cannot be reached, or did not answer in time.
    """
    for is_last in (False, True):
        try:
            return read()
        except PoolTimeoutError as error:
            raise Unavailable from error
        except DBAPIError as error:
            if is_last or not is_connection_lost(error):
                raise Unavailable from error
    raise AssertionError("unreachable")


def wait_no_longer_than(silence_s: float) -> None:
    """Install the wait callback, unless one that is more patient is there already: another engine needs it."""
    installed = psycopg2.extensions.get_wait_callback()
    if not isinstance(installed, _Deadline) or installed.silence_s < silence_s:
        psycopg2.extensions.set_wait_callback(_Deadline(silence_s))


class _Waiting(threading.local):
    """What a thread does while it waits for a server."""

    meanwhile: Callable[[], object] | None = None


_waiting = _Waiting()


@contextmanager
def while_waiting(meanwhile: Callable[[], object]) -> Iterator[None]:
    """Let this thread do something about every :data:`TICK_S` seconds in which a server has not answered it yet.

    Only while a statement runs, that is: not if the thread hangs elsewhere, and not for longer than a server may be
    silent.

    Args:
        meanwhile: raises nothing. The time that it takes is not the server's.
    """
    _waiting.meanwhile = meanwhile
    try:
        yield
    finally:
        _waiting.meanwhile = None


def _do_meanwhile() -> float:
    """Do what is to be done meanwhile, and return how many seconds that took."""
    if _waiting.meanwhile is None:
        return 0.0
    began = time.monotonic()
    _waiting.meanwhile()
    return time.monotonic() - began


class _Deadline:
    """psycopg2's wait callback: gives up on a server that has stopped answering.

    statement_timeout runs on the server, so it is of no help against a server that hangs; and with
    psycopg2's own waiting, in C and without an end, such a server would hold every thread for ever.
    A callback is process-wide: the bound is the largest statement_timeout in use, and some; what takes longer than any
    other work has one of its own (:func:`models.sockets.more_patient`).
    """

    def __init__(self, silence_s: float) -> None:
        self.silence_s = silence_s

    def __call__(self, connection: psycopg2.extensions.connection) -> None:
        silence_s = patience.get(connection, self.silence_s) if patience else self.silence_s
        deadline = time.monotonic() + (silence_s if connection.status else connect_timeout_s(connection))
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            for_writing = state == psycopg2.extensions.POLL_WRITE
            is_ready = False
            while not is_ready:
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise psycopg2.OperationalError("the server has stopped answering")
                is_ready = wait_until_ready(connection.fileno(), min(left_s, TICK_S), for_writing=for_writing)
                if not is_ready:
                    deadline += _do_meanwhile()
