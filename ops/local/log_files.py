"""The logs of a stack that runs for ever: JSON lines, bounded, and lost rather than waited for."""

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

from observe.lines import Lines

MAX_LOG_BYTES = 64 * 1024 * 1024
_COPIED_AT_ONCE_BYTES = 1024 * 1024


def json_line(record: Mapping[str, object]) -> bytes:
    """One line of a log, with the time in front."""
    time_text = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"time": time_text, **record}).encode() + b"\n"


def open_log(path: Path) -> IO[bytes]:
    """Open for appending whole lines, each by one write, beside others that do the same."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0)


class LogFile:
    """A log that is opened when there is something to write, again and again if it cannot be; raises nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._lines = Lines(self._open, self._tell_of_lost)

    def write(self, lines: bytes) -> None:
        """Append whole lines; they are lost where there is no room."""
        self._lines.write(lines)

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = open_log(self._path)
        return self._file

    def _tell_of_lost(self, lines: int) -> bytes:
        return json_line({"service": "stack", "level": "warning", "event": "log lines were lost", "lines": lines})


def rotate_log(path: Path, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Put what is in a large log aside, in the place of what was put aside before; return whether that was done.

    Others go on appending to the log and hold it open, so it is copied and emptied, and not renamed. What they write
    while it is copied is copied too; a line that comes between the last look and the emptying is lost. That is the
    price of their writing thousands of lines a second to the file itself, and not through a pipe and one more process.

    A disk without room for twice its size is left alone: the copy would take what others need more, again and again.

    Raises:
        OSError: the disk is full after all, say; nothing is lost by that, and nothing of the copy stays.
    """
    size = path.stat().st_size
    if size <= max_bytes or shutil.disk_usage(path.parent).free < 2 * size:
        return False
    draft = path.with_name(f".{path.name}.1.new")
    try:
        with path.open("rb") as log, open(draft, "w+b", opener=_open_private) as kept:
            shutil.copyfileobj(log, kept, _COPIED_AT_ONCE_BYTES)
            kept.flush()
            while rest := log.read():
                kept.write(rest)
                kept.flush()
            os.truncate(path, 0)
            _drop_half_a_line(kept)
        draft.replace(path.with_name(path.name + ".1"))
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return True


def _drop_half_a_line(kept: BinaryIO) -> None:
    """Cut off the beginning of a line whose rest came after the last look: a write may be seen in two parts."""
    end = kept.seek(0, os.SEEK_END)
    begin = kept.seek(max(0, end - _COPIED_AT_ONCE_BYTES))
    if newline := kept.read().rfind(b"\n") + 1:
        kept.truncate(begin + newline)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
