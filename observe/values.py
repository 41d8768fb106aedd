"""Where a process keeps what it counts: files that others can read, and memory while there is no room for a file.

prometheus-client maps its files into memory before they have any room on the disk, and when the disk is full whoever
counts is ended by SIGBUS. Here the room is taken first, by writing zeros into it, which fails like any other write.
Then the process counts in memory alone, where nobody else sees it, says so, and tries again now and then.

A copy-on-write file system (btrfs, ZFS) may want new room for what has some already; there this is no protection.
"""

import mmap
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

# What a file has from the start.
SIZE_BYTES = 64 * 1024
# Between two tries to find room for a file.
RETRY_S = 5.0
# Before the first value stands how much is used.
_HEADER_BYTES = 8
# With a key: its length, its padding, a value and a time.
_MOST_BESIDE_KEY_BYTES = 28

_log = structlog.get_logger("metrics")


class Values(MmapedDict):
    """Values by their keys, in memory, laid out as in a file. Like its base it is not for several threads at once."""

    def __init__(self) -> None:
        """Without any."""
        self._f: IO[bytes] | None = None  # type: ignore[assignment]
        self._positions: dict[str, int] = {}
        self._capacity = SIZE_BYTES
        self._m = mmap.mmap(-1, SIZE_BYTES)
        self._used = _HEADER_BYTES
        self._m[:4] = self._used.to_bytes(4, sys.byteorder)

    def content(self) -> bytes:
        """Return what a file of these values has in it."""
        return self._m[: self._used]

    def _init_value(self, key: str) -> None:
        # Its base grows by a way of its own, if there is any need left.
        while self._used + len(key.encode()) + _MOST_BESIDE_KEY_BYTES > self._capacity:
            self._grow(2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        self._move_to(mmap.mmap(-1, capacity), capacity)

    def _move_to(self, memory: mmap.mmap, capacity: int) -> None:
        memory[: self._used] = self.content()
        self._m, self._capacity = memory, capacity


class FileValues(Values):
    """Values in a file, which goes on with what it has; in memory as long as the file can have no room."""

    def __init__(self, filename: str) -> None:
        """Open or make it. Raises nothing if that cannot be done."""
        super().__init__()
        self._path = Path(filename)
        self._is_told = False
        try:
            self._go_on()
        except OSError:
            self._leave_the_disk()

    def _go_on(self) -> None:
        """Take the file for what it is: new, or a dead process's with the same pid."""
        file = self._path.open("a+b", buffering=0)
        try:
            _take_room(file, SIZE_BYTES)
            capacity = os.fstat(file.fileno()).st_size
            memory = mmap.mmap(file.fileno(), capacity)
        except OSError:
            file.close()
            raise
        self._f = file
        if used := int.from_bytes(memory[:4], sys.byteorder):
            self._m, self._capacity, self._used = memory, capacity, used
            self._positions = {key: place for key, _, _, place in self._read_all_values()}  # type: ignore[no-untyped-call]
        else:
            self._move_to(memory, capacity)

    def _grow(self, capacity: int) -> None:
        if self._is_on_disk:
            try:
                self._move_to_file(capacity)
            except OSError:
                self._leave_the_disk()
            else:
                return
        super()._grow(capacity)

    def _move_to_file(self, capacity: int) -> None:
        if self._f is None:
            self._f = self._path.open("a+b", buffering=0)
        _take_room(self._f, capacity)
        self._move_to(mmap.mmap(self._f.fileno(), capacity), capacity)

    @property
    def _is_on_disk(self) -> bool:
        return "write_value" not in vars(self)

    def _leave_the_disk(self) -> None:
        """Count in memory. What was in the file stays there, as it is now, for those who read it."""
        self._move_to(mmap.mmap(-1, self._capacity), self._capacity)
        self._retry_at = time.monotonic() + RETRY_S
        # In the place of the method, which has no question to ask as long as all is well.
        vars(self)["write_value"] = self._write_and_retry

    def _write_and_retry(self, key: str, value: float, timestamp: float) -> None:
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        if time.monotonic() < self._retry_at:
            return
        try:
            self._move_to_file(self._capacity)
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._tell("no room for a file of metrics, nobody sees them", is_trouble=True, cause=error.strerror)
        else:
            del vars(self)["write_value"]
            self._tell("metrics are in their file again", is_trouble=False)

    def _tell(self, event: str, *, is_trouble: bool, **facts: str | None) -> None:
        if is_trouble != self._is_told:
            self._is_told = is_trouble
            (_log.warning if is_trouble else _log.info)(event, file=self._path.name, **facts)


def _take_room(file: IO[bytes], size: int) -> None:
    """Make a file that large, with room for all of it.

    Raises:
        OSError: there is none. The file is as it was.
    """
    before = os.fstat(file.fileno()).st_size
    missing = size - before
    try:
        while missing > 0:
            missing -= file.write(bytes(missing))
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


def use_files_with_room() -> None:
    """Have prometheus-client keep its values so. Before the first of them is made."""
    values.MmapedDict = FileValues  # type: ignore[attr-defined,assignment]
