"""A process of its own that begins an import, says how much of it is written, and is killed in the middle of it.

python -m tests.models.ledger.import_child '{"url": …, "openings": …, "slice": …}'
"""

import json
import os
import signal
import sys
from typing import Any

from sqlalchemy import event

from models.database.engine import create_bounded_engine
from models.ledger import imports
from models.ledger.import_file import Opening
from models.ledger.imports import Imports
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from tests.models.ledger.ordering import PATIENCE_S

SLICES_WRITTEN = 2


def main() -> None:
    """Be killed after two slices."""
    signal.alarm(int(PATIENCE_S) * 3)
    task = json.loads(sys.argv[1])
    imports.SLICE = task["slice"]
    timeouts_ms = {"lock_timeout": 20_000, "statement_timeout": 20_000, "idle_in_transaction_session_timeout": 20_000}
    engine = create_bounded_engine(task["url"], timeouts_ms=timeouts_ms, pool_size=2, application_name="import-child")
    written = 0

    def die_after_some(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        nonlocal written
        written += "INSERT INTO entries" in statement
        if written == SLICES_WRITTEN:
            cursor.execute("SELECT (SELECT count(*) FROM wallets), (SELECT count(*) FROM entries)")
            wallets, entries = cursor.fetchone()
            sys.stdout.write(json.dumps({"wallets": wallets, "entries": entries}))
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "after_cursor_execute", die_after_some)
    Imports(engine, Snowflake(NodeLease(engine))).run([Opening(*each) for each in task["openings"]], key="k")


if __name__ == "__main__":
    main()
