"""A process of its own that begins an import, says how much of it is written, and is killed in the middle of it.

python -m tests.models.ledger.import_child '{"url": …, "openings": …, "slice": …}'
"""

import json
import os
import signal
import sys

from models.database.engine import create_bounded_engine
from models.database.session import Session, Statement
from models.ledger import imports
from models.ledger.import_file import Opening
from models.ledger.imports import Imports
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from tests.patience import PATIENCE_S

SLICES_WRITTEN = 2
COUNT = Statement(
    "count_written",
    ("bigint",),
    "SELECT (SELECT count(*) FROM wallets WHERE id > $1), (SELECT count(*) FROM entries WHERE seq > $1)",
)


def main() -> None:
    """Be killed after two slices."""
    signal.alarm(int(PATIENCE_S) * 3)
    task = json.loads(sys.argv[1])
    imports.SLICE = task["slice"]
    timeouts_ms = {"lock_timeout": 20_000, "statement_timeout": 20_000, "idle_in_transaction_session_timeout": 20_000}
    engine = create_bounded_engine(task["url"], timeouts_ms=timeouts_ms, pool_size=2, application_name="import-child")
    written, run = 0, Session.run

    def die_after_some(session: Session, statement: Statement, *parameters: object, then: str = "") -> None:
        nonlocal written
        run(session, statement, *parameters, then=then)
        written += "INSERT INTO entries" in statement.sql
        if written == SLICES_WRITTEN:
            ((wallets, entries),) = session.rows(COUNT, 0)
            sys.stdout.write(json.dumps({"wallets": wallets, "entries": entries}))
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    Session.run = die_after_some  # type: ignore[method-assign, assignment]
    Imports(engine, Snowflake(NodeLease(engine))).run([Opening(*each) for each in task["openings"]], key="k")


if __name__ == "__main__":
    main()
