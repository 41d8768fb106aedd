"""The values of all processes that share a folder, those that have ended included.

Each process keeps its values in files of its own, which outlive it, for a counter must not fall because a process has
ended. So their number grows with every restart, and the price of reading them with it. Whoever reads therefore folds
the files of the dead into one of each kind first: their counters and histograms go on in it, what they said of
themselves alive is dropped. Stock prometheus-client does the second only.

It happens under a lock, so that no reader sees a value twice or not at all; and it may be killed at any point. A dead
process's file is first moved, by a rename, among those of the ended, where it counts as before; then all of these are
added up in a new folder, and one more rename of a symbolic link puts that in their place. On a disk that is full it is
left for later, and the files are read as they are.
"""

import fcntl
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from observe import metrics
from observe.values import Values

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# The link to the folder of those that have ended, and what such folders' names begin with.
ENDED = "ended"
# A reader holds the lock for milliseconds. Only one that is frozen holds it for longer.
LOCK_TIMEOUT_S = 1.0
_LOCK_POLL_S = 0.005


_log = structlog.get_logger("metrics")


class FolderBusyError(Exception):
    """Somebody has held the folder's lock for too long."""


class _Counted:
    """What this process and those that share its folder have counted."""

    def collect(self) -> Iterable[Metric]:
        """Read it. What cannot be read is left out, and the log says why."""
        if metrics.FOLDER is None:
            return metrics.registry.collect()
        try:
            return read(metrics.FOLDER)
        except Exception:  # noqa: BLE001 - a damaged file fails in any way, and whoever watches must still see the rest
            _log.exception("metrics cannot be read")
            return []


def exposition(*others: Collector) -> bytes:
    """Write, in Prometheus's text format, what was counted and what other collectors add to it."""
    registry = CollectorRegistry()
    for collector in (_Counted(), *others):
        registry.register(collector)
    return generate_latest(registry)


def tidy() -> None:
    """Fold what the dead have left. For processes that begin or bury one; raises nothing."""
    if metrics.FOLDER is None:
        return
    try:
        fold(metrics.FOLDER)
    except OSError as error:  # no room: another time
        _log.warning("metrics cannot be folded", cause=error.strerror)
    except Exception:  # noqa: BLE001 - likewise
        _log.exception("metrics cannot be folded")


def read(folder: Path) -> list[Metric]:
    """Return what all processes together have counted.

    Raises:
        FolderBusyError: see there.
        OSError: the folder cannot be read.
    """
    with _locked(folder):
        try:
            _fold(folder)
        except OSError as error:
            _log.warning("metrics cannot be folded", cause=error.strerror)
        files = [file for file in folder.glob("*.db") if _is_alive(file) or not _ends_with_its_process(file)]
        return _merge([*files, *(folder / ENDED).glob("*.db")], accumulate=True)


def fold(folder: Path) -> None:
    """Add the values of processes that have ended to those of their like, as :func:`read` does.

    Raises:
        FolderBusyError: see there.
        OSError: the folder cannot be written to.
    """
    with _locked(folder):
        _fold(folder)


def _fold(folder: Path) -> None:
    dead = [file for file in folder.glob("*.db") if not _is_alive(file)]
    if not dead:
        return
    if not (folder / ENDED).exists():
        _replace_ended(folder, {})
    for file in dead:
        if _ends_with_its_process(file):
            file.unlink()
        else:
            # A name for ever: a process to come may have the same pid.
            file.rename(folder / ENDED / f"{file.stem}-{uuid4().hex}.db")
    kinds = defaultdict(list)
    for file in (folder / ENDED).glob("*.db"):
        kinds[file.stem.rpartition("_")[0]].append(file)
    _replace_ended(folder, {f"{kind}_{ENDED}.db": _merge(files, accumulate=False) for kind, files in kinds.items()})


def _replace_ended(folder: Path, contents: dict[str, list[Metric]]) -> None:
    """Put these files in the place of all those of the ended, at once."""
    new = folder / f"{ENDED}-{uuid4().hex}"
    try:
        new.mkdir()
        for name, families in contents.items():
            _write(new / name, families)
        draft = folder / f"{ENDED}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(new.name)
        draft.replace(folder / ENDED)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    for old in folder.glob(f"{ENDED}-*"):
        if old != new:
            shutil.rmtree(old)


def _write(path: Path, families: Iterable[Metric]) -> None:
    values = Values()
    for metric in families:
        for name, labels, value, *_ in metric.samples:
            key = mmap_key(metric.name, name, list(labels), list(labels.values()), metric.documentation)
            values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    path.write_bytes(values.content())


def _merge(files: Iterable[Path], *, accumulate: bool) -> list[Metric]:
    # A file is empty until there is room for its values, and the library would stumble over it.
    written = [str(file) for file in files if file.stat().st_size]
    return list(MultiProcessCollector.merge(written, accumulate))  # type: ignore[no-untyped-call]


def _ends_with_its_process(file: Path) -> bool:
    return file.name.startswith("gauge_live")


def _is_alive(file: Path) -> bool:
    """Whether the process whose file it is has not ended."""
    try:
        os.kill(int(file.stem.rpartition("_")[2]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, who has this pid now; it will end, too
        return True
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of the folder. The lock of a process that dies is free."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    lock = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FolderBusyError from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)
