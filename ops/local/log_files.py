"""Bounds what a stack that runs for ever writes to its logs."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

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
    with path.open("rb") as log, open(draft, "w+b", opener=_open_private) as kept:
        shutil.copyfileobj(log, kept, _COPIED_AT_ONCE_BYTES)
        kept.flush()
        while rest := log.read():
            kept.write(rest)
            kept.flush()
        os.truncate(path, 0)
        _drop_half_a_line(kept)
    draft.replace(path.with_name(path.name + ".1"))
    return True


def _drop_half_a_line(kept: BinaryIO) -> None:
    """Cut off the beginning of a line whose rest came after the last look: a write may be seen in two parts."""
    end = kept.seek(0, os.SEEK_END)
    begin = kept.seek(max(0, end - _COPIED_AT_ONCE_BYTES))
    if newline := kept.read().rfind(b"\n") + 1:
        kept.truncate(begin + newline)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
