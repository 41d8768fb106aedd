"""Bounds what a stack that runs for ever writes to its logs."""

import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 64 * 1024 * 1024
_COPIED_AT_ONCE_BYTES = 1024 * 1024


def rotate_log(path: Path, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Put what is in a large log aside, in the place of what was put aside before; return whether that was done.

    Others go on appending to the log and hold it open, so it is copied and emptied, and not renamed. What they write
    while it is copied is copied too; a line that comes between the last look and the emptying is lost. That is the
    price of their writing thousands of lines a second to the file itself, and not through a pipe and one more process.

    Raises:
        OSError: the disk is full, say; nothing is lost by that.
    """
    if path.stat().st_size <= max_bytes:
        return False
    draft = path.with_name(f".{path.name}.1.new")
    with path.open("rb") as log, open(draft, "wb", opener=_open_private) as kept:
        shutil.copyfileobj(log, kept, _COPIED_AT_ONCE_BYTES)
        kept.flush()
        while rest := log.read():
            kept.write(rest)
            kept.flush()
        os.truncate(path, 0)
    draft.replace(path.with_name(path.name + ".1"))
    return True


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
