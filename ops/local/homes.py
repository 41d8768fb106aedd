"""A folder that holds all of one run, and belongs to one run at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ops.local.processes import StackError

LOCK = "run/lock"


@contextmanager
def only_one(home: Path, *, called: str = "") -> Iterator[None]:
    """Hold the home for this process, with its folders made. What it is called is WALLET_HOME, unless that is said.

    Raises:
        StackError: another process holds it.
    """
    for folder in (home, *(home / name for name in ("logs", "run", "secrets"))):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = lock.read().decode().strip()
            raise StackError(f"already running on {called or f'WALLET_HOME={home}'} (pid {pid})") from None
        with suppress(OSError):  # for the line above only
            lock.truncate(0)
            lock.write(b"%d\n" % os.getpid())
        yield
