"""One at a time changes a schema or its privileges, on a connection that is bounded for that and not for payments."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, Engine, text

from models.sockets import more_patient

# Any constant would do: it only has to be the same in every process that changes this database's schema.
LOCK = 7_246_011
# Unless told otherwise: an index on hundreds of millions of rows takes less.
TIMEOUT_S = 21_600.0
# How long a statement waits for a lock on a table. Everybody who comes after it waits as long, so it is shorter than
# what payments wait: none fails for it.
LOCK_TIMEOUT_MS = 500
# How much longer than its statement_timeout a server may stay silent.
SILENCE_MARGIN_S = 2.0
POLL_S = 0.1
# Between two lines that say for whom we wait.
TELL_S = 5.0

_SETTINGS = {
    "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
    # A program that is stopped in the middle does not hold the service up for long.
    "idle_in_transaction_session_timeout": "60s",
    # What a program that was killed has begun ends with it.
    "client_connection_check_interval": "1s",
    # What makes payments quick is wrong for whoever goes through a whole table.
    "plan_cache_mode": "auto",
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
}
_HOLDER = text("""
SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'a socket') AS address
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objid = :key AND l.classid = 0 AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")

_log = structlog.get_logger("migrations")


@contextmanager
def alone(engine: Engine, *, timeout_s: float = TIMEOUT_S) -> Iterator[Connection]:
    """Let nobody else change the schema or its privileges for as long as this lasts; waits for whoever does.

    The lock is the session's: it outlives commits, as what runs outside a transaction needs, and goes with the
    connection, however that ends.

    Args:
        engine: its own bounds do not matter.
        timeout_s: seconds that each statement may take, and seconds to wait for others.

    Raises:
        TimeoutError: they took longer.
    """
    with engine.connect() as connection:
        try:
            with more_patient(connection.connection.driver_connection, timeout_s + SILENCE_MARGIN_S):
                for name, value in (_SETTINGS | {"statement_timeout": f"{round(timeout_s * 1000)}ms"}).items():
                    connection.exec_driver_sql(f"SET {name} = '{value}'")
                connection.commit()
                _wait_for_turn(connection, timeout_s)
                yield connection
        finally:
            # Not back into the pool: the lock and the settings are the session's.
            connection.invalidate()


def _wait_for_turn(connection: Connection, timeout_s: float) -> None:
    """Take the lock. Asked again and again, and not waited for in PostgreSQL.

    Whoever waits there has a snapshot, and an index that is built CONCURRENTLY waits for all snapshots older than it:
    the two would wait for each other.
    """
    now = time.monotonic()
    deadline, tell_at = now + timeout_s, now
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK}).scalar_one():
        holder = connection.execute(_HOLDER, {"key": LOCK}).first()
        connection.rollback()
        who = f"process {holder.pid} ({holder.application_name} at {holder.address})" if holder else "somebody else"
        if (now := time.monotonic()) > deadline:
            raise TimeoutError(f"{who} has been changing the schema for more than {timeout_s:.0f} s")
        if now >= tell_at:
            _log.info("waiting for another who changes the schema", who=who)
            tell_at = now + TELL_S
        time.sleep(POLL_S)
    connection.commit()
