"""Processes whose clock is set while they run: libfaketime, by a file that says how far it is off."""

import os
from pathlib import Path

import pytest

# Debian's package libfaketime, and others'.
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
_REQUIRED = "REQUIRE_SERVER_TOOLS"
# Debian 12's 0.9.10 refuses (EINVAL) each sleep to an instant of the monotonic clock, which is what `time.sleep` is.
# The linker finds a symbol by its name: under another one it leaves the sleeping to the C library.
_SLEEP, _ASIDE = b"\0clock_nanosleep\0", b"\0xlock_nanosleep\0"


def find_library() -> Path | None:
    """Return where libfaketime is, None where it is not installed."""
    root = Path("/")
    found = (each for place in _PLACES for each in root.glob(f"{place[1:]}/libfaketimeMT.so.1"))
    return next(found, None)


class Clock:
    """The wall clock of the processes that are started with its environment. Their other clocks stay as they are."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._library = file.with_suffix(".so")
        self.set(0)

    @classmethod
    def or_skip(cls, file: Path) -> "Clock":
        """Make one, or skip the test where that cannot be."""
        if find_library() is None:
            assert os.environ.get(_REQUIRED) != "1"
            pytest.skip("libfaketime is not installed")
        return cls(file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        library = find_library()
        assert library is not None
        if not self._library.exists():  # or it would change under those who run with it
            self._library.write_bytes(library.read_bytes().replace(_SLEEP, _ASIDE, 1))
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Set it so many seconds ahead of this machine's, or behind it."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{ahead_s:+d}\n")
        draft.replace(self._file)
