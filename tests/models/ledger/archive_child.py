"""A process of its own that lets old entries leave, and is killed at a point.

python -m tests.models.ledger.archive_child URL FOLDER SLICE [POINT before|after NTH]
"""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from models.ledger import archive_file, archives, leaving
from ops.backup import engine_of
from tests.models.ledger.archiving import archive

POINTS: dict[str, tuple[Any, str]] = {
    "find": (archives, "find_prefixes"),
    "delete": (leaving, "_check"),
    "draft": (archive_file, "digest_of"),
    "rename": (archive_file, "_sync"),
    "write": (archive_file, "write"),
    "move": (archives.Archives, "_move"),
}


def kill(point: str, when: str, nth: int) -> None:
    """Be killed before or after a point is passed for the nth time."""
    owner, name = POINTS[point]
    call, numbers = getattr(owner, name), itertools.count(1)

    def struck(*args: Any, **named: Any) -> Any:
        is_last = next(numbers) == nth
        if is_last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = call(*args, **named)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, struck)


if __name__ == "__main__":
    url, folder, size, *struck_at = sys.argv[1:]
    archives.SLICE = int(size)
    if struck_at:
        kill(struck_at[0], struck_at[1], int(struck_at[2]))
    with engine_of(url) as engine:
        archive(engine, Path(folder))
