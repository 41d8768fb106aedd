"""File systems that are really small, where root may mount them: a full disk cannot be had by any other way."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/mount.h
_MS_REMOUNT = 32
# Between two looks at what was removed meanwhile.
_TAKE_S = 0.01


@contextmanager
def mounted(folder: Path, **options: str) -> Iterator[Path]:
    """Have a file system of its own on a folder, which is made.

    Args:
        folder: where.
        options: of tmpfs: ``size``, ``nr_inodes``.

    Raises:
        PermissionError: this process may not mount, or there is nothing to mount with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spelled = ",".join(f"{name}={value}" for name, value in options.items())
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", spelled, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError(f"a small file system cannot be mounted on {folder}") from error
    try:
        yield folder
    finally:
        # Lazily: a process that is ending may still have a file there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no byte of room in such a file system for a while, whatever is removed from it meanwhile.

    It is made as small as what is in it, which costs no memory.
    """
    before = os.statvfs(folder)
    over = threading.Event()

    def stay_full() -> None:
        while not over.wait(_TAKE_S):
            _take_room(folder)

    thread = threading.Thread(target=stay_full, name="full disk")
    try:
        while not _take_room(folder):
            pass
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        assert _resize(folder, before.f_blocks * before.f_frsize)


def _take_room(folder: Path) -> bool:
    """Take what is free; False: somebody has just used some of it."""
    now = os.statvfs(folder)
    # 0 would be no limit.
    return _resize(folder, max(1, now.f_blocks - now.f_bfree) * now.f_frsize)


def _resize(folder: Path, size: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mount(None, os.fsencode(folder), None, _MS_REMOUNT, f"size={size}".encode()) == 0)
