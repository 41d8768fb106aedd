"""A reload without a gap: a process that is replaced works on until those that replace it are ready.

On SIGHUP gunicorn starts new processes and in the same breath tells the old ones to leave, seconds before the new ones
have loaded the application; until then nobody would accept. So an old one has to know that it is being replaced (and
not stopped), and whether the new ones are ready. They tell each other through memory that all processes of a master
share, each in a cell of its own, so that no lock is needed and a process killed at any point blocks nobody.
"""

import mmap

# More than API_PROCESSES can be, so that no two processes of a reload share a cell.
CELLS = 256
_CELL_BYTES = 8


class Succession:
    """Who is replaced, and who is ready, by gunicorn's ``age``: the running number of a process.

    Made in the master, before the processes that share it are forked.
    """

    def __init__(self) -> None:
        self._last_retired = memoryview(mmap.mmap(-1, _CELL_BYTES)).cast("Q")
        self._ready = memoryview(mmap.mmap(-1, _CELL_BYTES * CELLS)).cast("Q")

    def retire(self, youngest_age: int) -> None:
        """Say in the master that all processes so far, up to this one, are about to be replaced."""
        self._last_retired[0] = youngest_age

    def report_ready(self, age: int) -> None:
        """Say in a new process that it has loaded the application and is about to accept."""
        self._ready[age % CELLS] = age

    def is_retired(self, age: int) -> bool:
        """Whether a process is told to leave because it is replaced."""
        return age <= self._last_retired[0]

    def is_relieved(self, wanted: int) -> bool:
        """Whether that many of the new processes have become ready."""
        retired = self._last_retired[0]
        return sum(age > retired for age in self._ready) >= wanted
