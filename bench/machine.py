"""On what it was measured: the machine, the versions, how busy it was."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

from bench.site import ROOT, Site
from ops.local.server import plain_environment

PACKAGES = ("rq", "redis", "SQLAlchemy", "psycopg2-binary", "gunicorn", "Flask", "grpcio")
# For the time of an fsync: enough for a median, and over in a blink on any disk.
SYNCS, PAGE = 40, bytes(8192)


def describe(site: Site) -> dict[str, str]:
    """Return everything that a reader of the numbers would ask for."""
    packages = {name.lower(): metadata.version(name) for name in PACKAGES}
    return {
        "cpu": _after(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": filesystem_of(site.home, Path("/proc/self/mounts")),
        "python": platform.python_version(),
        "postgresql": _said(str(site.postgres.program), "--version"),
        "valkey": str(site.redis.info("server").get("valkey_version", "unknown")),
        **packages,
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown",
    }


def idle_share(seconds: float = 1.0) -> float:
    """Watch for a moment and return which share of all cores nobody wanted; 1 where that cannot be told."""
    before = _ticks()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_ticks(), before, strict=True)]
    return round((spent[3] + spent[4]) / sum(spent), 2) if sum(spent) else 1.0


def sync_ms(folder: Path) -> float:
    """Return the median time in milliseconds in which a page is written and synchronised: what a commit waits for."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), PAGE, 0)
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(times), 3)


def filesystem_of(path: Path, mounts: Path) -> str:
    """Return the type of the file system that holds a path: what an fsync is worth hangs on it."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [(len(where), kind) for _, where, kind, *_ in lines if path.is_relative_to(where)]
    return max(holding, default=(0, "unknown"))[1]


def _ticks() -> list[int]:
    # user, nice, system, idle, iowait, …
    return [int(each) for each in _after(Path("/proc/stat"), "cpu ", " ").split()] or [0] * 5


def _after(path: Path, name: str, separator: str = ":") -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(separator)[2].strip() for line in lines if line.startswith(name)), "")


def _said(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=plain_environment())
    except OSError:
        return ""
    return ran.stdout.strip()
