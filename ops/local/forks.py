"""Children that are forked and run no program of their own: they share the memory of what their parent has loaded.

For a parent with one thread. What a child runs must not have been used by the parent before: gRPC, say.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from ops.local.launch import die_with_parent
from ops.local.processes import POLL_S, Child, Spec, StackError, stop_leftover
from ops.local.supervisor import CONFIGURATION_STATUS

# What a child exits with when it ends by an exception.
FAILED = 1

_log = structlog.get_logger("forks")


class Fork:
    """A forked process, which can be asked what :class:`subprocess.Popen` can."""

    stdin = stdout = stderr = None

    def __init__(self, body: Callable[[], int]) -> None:
        """Fork. The child runs ``body``, exits with what it returns, and dies with this process."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _be_a_child(parent, body)
        with suppress(OSError):  # it has done so itself, or has ended
            os.setpgid(self.pid, self.pid)

    def poll(self) -> int | None:
        """Return how it has ended; None: it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it runs still.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout or 0.0)
            time.sleep(POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        """Signal it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Forked(Child):
    """A child that is forked anew at every launch."""

    def __init__(self, spec: Spec, body: Callable[[], int]) -> None:
        super().__init__()
        self._spec = spec
        self._body = body

    @property
    def spec(self) -> Spec:
        """As given; its command is not run."""
        return self._spec

    def launch(self) -> None:
        """Fork, and return at once.

        Raises:
            StackError: it already runs, or the one of the last run does and cannot be stopped.
        """
        if self.is_running:
            raise StackError(f"{self.spec.name} runs already")
        stop_leftover(self.spec)
        self._is_noted = False
        self._process = Fork(self._body)  # type: ignore[assignment]  # as good as one
        with suppress(OSError):
            self.note()

    def complaint(self) -> str:
        """Why it failed. What it has said itself went where this process's own output goes."""
        is_wrong = self.exit_status == CONFIGURATION_STATUS
        return "configuration error: " if is_wrong else f"exit status {self.exit_status}"


def _be_a_child(parent: int, body: Callable[[], int]) -> None:
    """Run the body as a process of its own, and end. Nothing of the parent's own ways to end is done here."""
    status = FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)  # so that it can be killed with all that it may start, and a terminal's Ctrl-C is not for it
        die_with_parent(parent, signal.SIGKILL)
        status = body()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else FAILED
    except BaseException:  # noqa: BLE001 - nobody is left to raise it to
        _log.critical("a forked process fails", exc_info=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
