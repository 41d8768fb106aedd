"""What the processes of a master know of each other: who is replaced, who is ready, how many connections each has.

On SIGHUP gunicorn starts new processes and in the same breath tells the old ones to leave, seconds before the new ones
have loaded the application; until then nobody would accept. So an old one has to know that it is being replaced (and
not stopped), and whether the new ones are ready.

And all of them sleep on one listening socket, where whoever is awake already is the first: of 16 kept-alive
connections, 15 were seen to end up with one of two processes, for as long as they lasted, with one core idle.

They tell each other through memory that all share, each in a cell of its own, so that no lock is needed and a process
killed at any point blocks nobody.
"""

import mmap

# More than API_PROCESSES can be, so that no two processes of a reload share a cell.
CELLS = 256
_CELL_BYTES = 8
# So many connections more than another process has, or more by such a part, and it is the other one's turn.
MORE = 2
MORE_BY_PART = 8


class Siblings:
    """The processes of a master by gunicorn's ``age``, the running number of a process. Made before they are forked."""

    def __init__(self) -> None:
        self._last_retired = _cells(1)
        self._is_stopping = _cells(1)
        # The age of who is ready to serve in this cell; 0: nobody.
        self._ready = _cells(CELLS)
        self._connections = _cells(CELLS)

    def retire(self, youngest_age: int) -> None:
        """Say in the master that all processes so far, up to this one, are about to be replaced."""
        self._last_retired[0] = youngest_age

    def stop(self) -> None:
        """Say in the master that all of them are to leave, and nobody follows."""
        self._is_stopping[0] = 1

    @property
    def are_stopping(self) -> bool:
        """Whether the master has been told to stop."""
        return bool(self._is_stopping[0])

    def report(self, age: int, connections: int) -> None:
        """Say in a process that it has loaded the application and accepts, and how many connections it has."""
        self._ready[age % CELLS] = age
        self._connections[age % CELLS] = connections

    def forget(self, age: int) -> None:
        """Say that a process accepts no more."""
        if self._ready[age % CELLS] == age:
            self._ready[age % CELLS] = 0

    def is_retired(self, age: int) -> bool:
        """Whether a process is told to leave because it is replaced."""
        return age <= self._last_retired[0] and not self.are_stopping

    def is_relieved(self, wanted: int) -> bool:
        """Whether that many of the new processes have become ready."""
        retired = self._last_retired[0]
        return sum(age > retired for age in self._ready) >= wanted

    def has_more(self, age: int, connections: int) -> bool:
        """Whether a process has clearly more connections than another one that accepts."""
        more = max(MORE, connections // MORE_BY_PART)
        return any(
            other and other != age and connections - self._connections[cell] >= more
            for cell, other in enumerate(self._ready)
        )


def _cells(count: int) -> "memoryview[int]":
    return memoryview(mmap.mmap(-1, _CELL_BYTES * count)).cast("q")
