"""Which of the processes that share a port serve, and whose turn it is to leave at a reload.

All of them are told to leave in the same instant (SIGHUP), and none may until all others serve: so one at a time has
the turn, and keeps it until it has ended. What they know of each other are locks on bytes of one file, a byte for the
turn and one for each process that serves. The kernel takes a lock back when its holder ends, however that ends, so that
nobody waits for the dead; and nothing has to be written, so that a full disk is no trouble.

Locks of this kind belong to a process: it does not see its own, and has none any more as soon as it closes the file, by
whatever descriptor. So a process makes one of these, and opens the file in no other way.
"""

import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

FILE = "turns"
# How many there can be at most: GRPC_PROCESSES' bound.
MOST = 64
POLL_S = 0.02
# The bytes of the file. That of a process which serves is its number, from 1 on.
_TURN = 0
# struct flock, of fcntl(2): kind, whence, start, length, pid; BSD has them in another order.
_IS_BSD = sys.platform == "darwin" or "bsd" in sys.platform
_FLOCK = "qqihh" if _IS_BSD else "hhqqi4x"


class Turns:
    """What one process says of itself and sees of its siblings; or what their supervisor sees."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        """Open the file, and hold nothing yet.

        Args:
            folder: the same for all siblings, and for nobody else; made if it is missing.
            number: this process's among them, from 1 to :data:`MOST`; 0 for their supervisor, who only looks.
        """
        if not 0 <= number <= MOST:
            raise ValueError(f"there is no number {number}")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._number = number

    def serving(self) -> None:
        """Say that this process serves.

        Raises:
            BlockingIOError: another one says so under its number.
        """
        if not self._number:
            raise ValueError("a supervisor does not serve")
        self._take(self._number)

    def wait_for_turn(self, others: int, timeout_s: float, still_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Take the turn to leave, and wait until so many others serve.

        Who gets it keeps it until its process ends, so it must be on its way by then: nobody else can leave meanwhile.
        A process whose successor does not come is waited for in vain, and then this one stays, too.

        Args:
            others: how many siblings there are beside this one.
            timeout_s: the longest to wait, in seconds.
            still_wanted: asked while it waits; False ends it.

        Returns:
            True: it may leave now. False: it took too long or is not wanted any more, and the turn is given back.
        """
        deadline = time.monotonic() + timeout_s
        has_turn = False
        while still_wanted():
            has_turn = has_turn or self._try_to_take(_TURN)
            if has_turn and self.count_serving() >= others:
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if has_turn:
            self._give_back(_TURN)
        return False

    def leave(self) -> None:
        """Say that this process serves no more. A turn that it has stays its own until it ends."""
        if self._number:
            self._give_back(self._number)

    def count_serving(self) -> int:
        """Return how many others serve: for a supervisor, all."""
        return len(self.serving_pids())

    def serving_pids(self) -> list[int]:
        """Return the pids of the others that serve, in the order of their numbers."""
        return [pid for number in range(1, MOST + 1) if (pid := self._find_holder(number))]

    def close(self) -> None:
        """Give everything back, as the end of the process does."""
        os.close(self._file)

    def _try_to_take(self, byte: int) -> bool:
        try:
            self._take(byte)
        except BlockingIOError:
            return False
        return True

    def _take(self, byte: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)

    def _give_back(self, byte: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _find_holder(self, byte: int) -> int:
        """Return the pid of another process that holds it, 0: none does.

        Asked without trying to take it, which would keep its owner from it.
        """
        asked = (fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        kind, whence, start, length, pid = asked
        question = struct.pack(_FLOCK, *((start, length, pid, kind, whence) if _IS_BSD else asked))
        answer = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_GETLK, question))
        kind, pid = (answer[3], answer[2]) if _IS_BSD else (answer[0], answer[4])
        return 0 if kind == fcntl.F_UNLCK else int(pid)
