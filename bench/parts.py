"""What the parts of the service cost: their processes' time on the processors, and the memory they hold (Linux only).

Elsewhere everything costs nothing: see that you measure where /proc is.
"""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ops.local.processes import IS_LINUX
from ops.local.server import LOOPBACK, is_port_free

CLIENT = "client"
_PROC = Path("/proc")


class _Process(NamedTuple):
    parent: int
    ticks: int


def cpu_s(parts: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return how many seconds of processors each part has used so far, and how many this process has, the client.

    Args:
        parts: the pids of each part; all that these have started counts as well, and all of it that has ended.
    """
    running = _look()
    a_second = os.sysconf("SC_CLK_TCK")
    spent = {
        name: sum(running[pid].ticks for root in roots for pid in _family(running, root)) / a_second
        for name, roots in parts.items()
    }
    return spent | {CLIENT: time.process_time()}


def pss_mb(pid: int) -> float:
    """Return the memory of a process in MB; what it shares with others is divided among them."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def family(pid: int) -> list[int]:
    """Return the pid of a process that runs, and those of all that it has started."""
    return [pid, *children(pid)]


def children(pid: int) -> list[int]:
    """Return the pids of all that a process has started, and of what those have, without itself."""
    return [each for each in _family(_look(), pid) if each != pid]


def are_listening(pid: int, port: int, count: int) -> bool:
    """Tell whether so many of what a process has started listen on a port, which they share.

    Elsewhere, whether anybody listens there.
    """
    if not IS_LINUX:
        return not is_port_free(LOOPBACK, port)
    return sum(_is_listening(child, port) for child in children(pid)) >= count


def _is_listening(pid: int, port: int) -> bool:
    own = _PROC / str(pid)
    try:
        lines = [line.split() for name in ("tcp", "tcp6") for line in (own / "net" / name).read_text().splitlines()]
        # proc_pid_net(5): slot, local address:port, remote address:port, state (10: listening) … inode.
        listening = {f"socket:[{each[9]}]" for each in lines if each[1].endswith(f":{port:04X}") and each[3] == "0A"}
        return any(str(descriptor.readlink()) in listening for descriptor in (own / "fd").iterdir())
    except OSError:
        return False  # it has ended, or closed what was just looked at


def _look() -> dict[int, _Process]:
    """Return all processes of this machine."""
    found = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            # proc(5): pid (comm) state ppid … utime stime cutime cstime, the last two of children that have ended.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended since it was listed
        found[int(entry.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _family(running: Mapping[int, _Process], root: int) -> list[int]:
    found = [root] if root in running else []
    for pid in found:  # it grows meanwhile
        found += [child for child, process in running.items() if process.parent == pid]
    return found
