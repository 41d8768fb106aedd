"""How the processes of a master share connections: each sees how many the others have, and takes no more than its part.

All of them sleep on one listening socket, and whoever is awake already is the first there: of 16 kept-alive
connections, 15 were seen to end up with one of two processes, which then served them on one core while the other core
was idle, for as long as the connections lasted.
"""

import mmap
import time
from collections.abc import Callable

# More than API_PROCESSES can be, so that no two processes of a reload share a cell.
CELLS = 256
_CELL_BYTES = 8
# A process writes its cell every second at least. What is older is of one that has ended, or stands still.
FRESH_S = 2.5
# So many connections more than another process has, and it is the other one's turn.
MORE = 2


class EvenLoad:
    """How many connections each process has, in memory that all of a master's processes share.

    Made in the master, before they are forked. Each writes its own cells only, so there is no lock that a process could
    die with.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connections = memoryview(mmap.mmap(-1, _CELL_BYTES * CELLS)).cast("q")
        self._written_at = memoryview(mmap.mmap(-1, _CELL_BYTES * CELLS)).cast("d")

    def report(self, age: int, connections: int) -> None:
        """Say in a process how many connections it has."""
        cell = age % CELLS
        self._connections[cell] = connections
        self._written_at[cell] = self._clock()

    def leave(self, age: int) -> None:
        """Say in a process that it accepts no more."""
        self._written_at[age % CELLS] = 0.0

    def has_more(self, age: int, connections: int) -> bool:
        """Whether a process has clearly more than another one that lives."""
        since, own = self._clock() - FRESH_S, age % CELLS
        # Most cells were never written; at most API_PROCESSES of them are looked at twice.
        return any(
            written_at > since and cell != own and connections - self._connections[cell] >= MORE
            for cell, written_at in enumerate(self._written_at)
        )
