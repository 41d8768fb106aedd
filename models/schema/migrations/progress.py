"""What a migration is doing, said every few seconds: one that takes an hour must not look like one that hangs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

TELL_S = 5.0
# Of a statement's text.
MOST_CHARACTERS = 120

_LOOK = text("""
SELECT a.query, extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS since_s, p.phase,
    (100 * p.blocks_done / nullif(p.blocks_total, 0))::int AS percent, pg_blocking_pids(a.pid) AS blockers
FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index p ON p.pid = a.pid
WHERE a.pid = :pid AND a.state = 'active'
""")

_log = structlog.get_logger("migrations")


@contextmanager
def told(engine: Engine, connection: Connection) -> Iterator[None]:
    """Tell from a thread of its own what a connection is doing, for as long as this lasts.

    Args:
        engine: for a second connection, from which to look; without one only the time is told.
        connection: whose doings.
    """
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    connection.rollback()
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(engine, pid, over), name="migration's progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(engine: Engine, pid: int, over: threading.Event) -> None:
    began = time.monotonic()
    while not over.wait(TELL_S):
        fields: dict[str, object] = {}
        try:
            # In no transaction: an index that is built CONCURRENTLY would wait for that, too.
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as own:
                if found := own.execute(_LOOK, {"pid": pid}).first():
                    fields = {"statement": " ".join(found.query.split())[:MOST_CHARACTERS], "since_s": found.since_s}
                    known = {"phase": found.phase, "percent": found.percent, "waits_for": found.blockers}
                    fields |= {name: value for name, value in known.items() if value}
        except SQLAlchemyError as error:
            fields = {"cause": type(error).__name__}
        _log.info("migrating", elapsed_s=round(time.monotonic() - began), **fields)
