"""Being told to stop: by Ctrl-C, SIGTERM, a closed terminal, or the death of ``make``."""

import ctypes
import os
import select
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from ops.local.launch import PR_SET_PDEATHSIG

# Within this time a second signal is the first one again: `kill` on the process group reaches us directly, and once
# more through make, which forwards its own SIGTERM.
SAME_SIGNAL_S = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Catches the signals of a block of code, and lets its main loop sleep until one comes.

    A child's end (SIGCHLD) ends the sleep too. Only for the main thread.
    """

    def __init__(self, *, follow_parent: bool = False, stops_at_hangup: bool = True) -> None:
        """Catch nothing yet.

        Args:
            follow_parent: the end of the parent process is a request to stop.
            stops_at_hangup: so is SIGHUP; else it is only noted, in :attr:`hung_up`, and ends the sleep.
        """
        self.requested = False
        self.hung_up = False
        self._stops_at_hangup = stops_at_hangup
        self.forced = False
        self._first_at = 0.0
        self._parent = os.getppid() if follow_parent else 0
        self._interrupted_before = False
        self._restore = ExitStack()

    def __enter__(self) -> Self:
        """Install the handlers."""
        self._awake, wake = socket.socketpair()
        for end in (self._awake, wake):
            end.setblocking(False)
            self._restore.callback(end.close)
        # Python's handlers run between two bytecodes; the descriptor is what wakes a select that has just begun.
        self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False))
        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and self._stops_at_hangup and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the terminal's end shall be ignored
            self._restore.callback(signal.signal, number, signal.signal(number, self._note))
        self._restore.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
        if self._parent and sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        self._restore.close()

    def sleep(self, timeout_s: float) -> None:
        """Return at the next signal, at the latest after the timeout."""
        select.select([self._awake], [], [], max(0.0, timeout_s))
        with suppress(BlockingIOError):
            while self._awake.recv(1024):
                pass
        self.check_parent()

    def is_wanted(self) -> bool:
        """False once anyone has asked for a stop."""
        self.check_parent()
        return not self.requested

    def check_parent(self) -> None:
        """Ask whether ``make`` still runs and has not been told to stop."""
        if self._parent and (os.getppid() != self._parent or self._is_parent_interrupted()):
            self.requested = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGHUP and not self._stops_at_hangup:
            self.hung_up = True
        elif not self.requested:
            self.requested, self._first_at = True, now
        # A terminal that closes, or make that dies, is no reason to hurry.
        elif number != signal.SIGHUP and now - self._first_at > SAME_SIGNAL_S:
            self.forced = True

    def _is_parent_interrupted(self) -> bool:
        """Whether make has got a SIGINT of its own, which it, unlike a SIGTERM, passes on to nobody.

        It then blocks the signal until its child ends. Looked at twice, since it also blocks it for an instant
        whenever it starts a child.
        """
        blocked = sys.platform == "linux" and _blocks_sigint(self._parent)
        before, self._interrupted_before = self._interrupted_before, blocked
        return before and blocked


def _blocks_sigint(pid: int) -> bool:
    with suppress(OSError, ValueError, IndexError):
        masks = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return bool(int(masks["SigBlk"], 16) >> (signal.SIGINT - 1) & 1)
    return False
