"""File systems that are really small, where root may mount them: a full disk cannot be had by any other way."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILLER = "filler"
REFILL_S = 0.01


def is_possible(folder: Path) -> bool:
    """Whether this process may mount there."""
    with suppress(PermissionError), mounted(folder, size="64k"):
        return True
    return False


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
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", spelled, "tmpfs", str(folder)], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError(f"a small file system cannot be mounted on {folder}") from error
    try:
        yield folder
    finally:
        # Lazily: a process that is ending may still have a file there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no byte of room in the file system of a folder for a while, whatever is removed from it meanwhile."""
    filler = folder / FILLER
    over = threading.Event()
    with filler.open("ab", buffering=0) as file:

        def keep_full() -> None:
            while not over.wait(REFILL_S):
                fill(file.fileno())

        thread = threading.Thread(target=keep_full, name="filler")
        try:
            fill(file.fileno())
            thread.start()
            yield
        finally:
            over.set()
            thread.join()
            filler.unlink()


def fill(file: int) -> None:
    """Write into a file until nothing more goes in."""
    block = bytes(1024 * 1024)
    while block:
        with suppress(OSError):
            while os.write(file, block) == len(block):
                pass
        block = block[: len(block) // 2]
