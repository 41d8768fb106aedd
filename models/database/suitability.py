"""Whether a server is what the service rests on, found out before anybody is served by it."""

import re

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models.database.faults import first_line

# client_connection_check_interval, which every connection of ours sets, came with 14.
OLDEST_VERSION = 140_000
POOLER = "leads through a connection pooler (such as pgbouncer), where no session keeps what it has set or prepared"
STANDBY = "leads to a standby, which takes no writes"
READ_ONLY = "leads to where nothing can be written: default_transaction_read_only is on"

# Every session of ours has an interval (models/database/engine.py), unless something in between has dropped it.
_FACTS = text("""
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS version_words,
    pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only')::bool AS is_read_only,
    pg_backend_pid() AS backend, current_setting('client_connection_check_interval', true) = '0' AS ours_are_missing
""")
_BACKEND = text("SELECT pg_backend_pid()")
# A server that is there and says no. What it says while it starts or is crowded, it will not say for long.
_REFUSAL = re.compile(r"FATAL:\s+(?P<why>[^;]*)")
_PASSES = re.compile(
    "starting up|shutting down|recovery mode|not yet accepting|not accepting|too many|remaining connection slots"
)
# pgbouncer's words.
_UNSUPPORTED = "unsupported startup parameter"


def find_objection(engine: Engine) -> str | None:
    """Return why the service cannot rest on this server, in words that go on from its name; None: it can.

    Two connections are looked at together: behind a pooler that hands them out by transactions they are one.

    Raises:
        sqlalchemy.exc.DBAPIError: it cannot be reached.
    """
    with engine.connect() as one, engine.connect() as other:
        facts = one.execute(_FACTS).one()
        one.rollback()
        if facts.ours_are_missing or other.execute(_BACKEND).scalar_one() == facts.backend:
            return POOLER
    if facts.version < OLDEST_VERSION:
        return f"leads to PostgreSQL {facts.version_words}, and 14 is the oldest that will do"
    if facts.is_standby:
        return STANDBY
    return READ_ONLY if facts.is_read_only else None


def find_refusal(error: DBAPIError) -> str | None:
    """Return why a server will not let us in however long it is asked, as above; None: it may, some time."""
    said = first_line(error)
    if _UNSUPPORTED in said:
        return POOLER
    refusal = _REFUSAL.search(said)
    return None if refusal is None or _PASSES.search(said) else f"is refused by the server: {refusal['why'].strip()}"
