"""Processes whose clock is set while they run: libfaketime, by a file that says how far it is off."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Debian's package libfaketime, and others'.
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
_REQUIRED = "REQUIRE_SERVER_TOOLS"
# Debian 12's 0.9.10 refuses (EINVAL) each sleep to an instant of the monotonic clock, which is what `time.sleep` is.
# The linker finds a symbol by its name: under another one it leaves the sleeping to the C library.
_SLEEP, _ASIDE = b"\0clock_nanosleep\0", b"\0xlock_nanosleep\0"
# Nor does it know the waits of C11, which are until an instant of the wall clock: those of Kafka's client, who so would
# wait for longer by as much as his clock is ahead.
_WAITS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
    struct timespec told, right;
    if (!wait)
        wait = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    clock_gettime(CLOCK_REALTIME, &told);
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &right);
    long long ns = (until->tv_sec - told.tv_sec + right.tv_sec) * 1000000000LL;
    ns += until->tv_nsec - told.tv_nsec + right.tv_nsec;
    struct timespec at = {ns / 1000000000LL, ns % 1000000000LL};
    return wait(condition, mutex, &at);
}
"""


def find_library() -> Path | None:
    """Return where libfaketime is, None where it is not installed."""
    root = Path("/")
    found = (each for place in _PLACES for each in root.glob(f"{place[1:]}/libfaketimeMT.so.1"))
    return next(found, None)


def has_compiler() -> bool:
    """Whether the clock may be set of processes that use Kafka's client: see above."""
    return shutil.which("cc") is not None


class Clock:
    """The wall clock of the processes that are started with its environment. Their other clocks stay as they are."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._library = file.with_suffix(".so")
        self._waits = file.with_suffix(".waits.so")
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
        if not self._waits.exists() and has_compiler():
            command = ["cc", "-shared", "-fPIC", "-o", str(self._waits), "-x", "c", "-", "-ldl"]
            subprocess.run(command, input=_WAITS, text=True, check=True, capture_output=True)
        libraries = [str(each) for each in (self._waits, self._library) if each.exists()]
        return {
            "LD_PRELOAD": ":".join(libraries),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Set it so many seconds ahead of this machine's, or behind it."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{ahead_s:+d}\n")
        draft.replace(self._file)
