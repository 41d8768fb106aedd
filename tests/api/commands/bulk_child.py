"""A process of its own that sends a file in bulks of a few lines, and is killed once some of them are recorded.

python -m tests.api.commands.bulk_child 3 2 FILE --user 1     # bulks of 3 lines; killed after 2 of them
"""

import os
import signal
import sys

from api.app import create_app
from api.commands import bulk
from config import Settings, load
from models.ledger.bulks import BulkAcceptance, BulkOrder, Bulks
from tests.patience import PATIENCE_S


def main() -> None:
    """Be killed after the commit, and before anything that comes after it."""
    signal.alarm(int(PATIENCE_S) * 3)
    bulk.CHUNK, left = int(sys.argv[1]), int(sys.argv[2])
    accept = Bulks.accept

    def die_after_some(bulks: Bulks, order: BulkOrder) -> BulkAcceptance:
        nonlocal left
        acceptance = accept(bulks, order)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return acceptance

    Bulks.accept = die_after_some  # type: ignore[method-assign, assignment]
    create_app(load(Settings)).test_cli_runner().invoke(args=["bulk", *sys.argv[3:]])


if __name__ == "__main__":
    main()
