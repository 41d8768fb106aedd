"""A process of its own for test_ids.py: obeys a line of JSON on stdin, answers with a line of JSON on stdout.

:class:`Process` is its parent's end, :class:`Child` its own.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, create_engine, func, select

from models.errors import WalletServiceError
from models.snowflake.ids import Snowflake
from models.snowflake.layout import EPOCH_MS
from models.snowflake.leases import NodeLease, boot_time_s
from tests.nursery import Forked
from tests.project import ROOT

START_MS = EPOCH_MS + 1_000_000_000
# Every process reads the same instants, as often: two that shared a node would certainly issue the same ids.
READINGS_PER_MS = 100
PATIENCE_S = 90  # then a process that hangs ends itself; the test's own bound is longer


class Process:
    """A process with a generator of its own."""

    def __init__(self, engine: Engine, lease_s: float) -> None:
        self._popen = Forked(
            [sys.executable, "-m", "tests.models.snowflake.snowflake_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write({"url": engine.url.render_as_string(hide_password=False), "lease_s": lease_s})

    def tell(self, command: str, *arguments: int) -> None:
        """Have a method of :class:`Child` called."""
        self._write([command, *arguments])

    def answer(self) -> Any:
        """Wait for what it returned."""
        assert self._popen.stdout is not None
        return json.loads(self._popen.stdout.readline() or '"the process died"')

    def ask(self, command: str, *arguments: int) -> Any:
        """Do both."""
        self.tell(command, *arguments)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def wait_until_stopped(self) -> None:
        """Wait for SIGSTOP to have had its effect."""
        self._popen.wait_until_stopped()

    def end(self) -> None:
        """End it, also when it is stopped or hangs."""
        self.signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self._popen.communicate(timeout=5)
        self._popen.kill()
        self._popen.communicate()

    def _write(self, line: object) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(line) + "\n")
        self._popen.stdin.flush()


class Child:
    """One generator and what can be done to it."""

    def __init__(self, url: str, lease_s: float) -> None:
        self.engine = create_engine(url)
        self.stop_at_next_check = False
        self.before_reading: Callable[[], object] = bool
        self.readings = itertools.count()
        lease = NodeLease(self.engine, lease_s=lease_s, uptime_s=self.uptime_s)
        self.ids = Snowflake(lease, clock_ms=self.clock_ms, wait_s=bool)

    def clock_ms(self) -> int:
        """Tick by being read."""
        self.before_reading()
        return START_MS + next(self.readings) // READINGS_PER_MS

    def uptime_s(self) -> float:
        """Read the real clock."""
        now_s = boot_time_s()
        if self.stop_at_next_check:
            self.stop_at_next_check = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return now_s

    def issue(self, count: int) -> list[int]:
        """Issue ids."""
        return [self.ids.next_id() for _ in range(count)]

    def issue_stopped_after_the_check(self) -> list[int]:
        """Be stopped when the lease was found to hold and the id is not yet made."""
        self.stop_at_next_check = True
        return self.issue(1)

    def fork(self, count: int) -> dict[str, object]:
        """Issue ids on both sides of a fork."""
        before = self.issue(1)
        backend = self.backend()
        return {
            "child": in_fork(lambda: {"ids": self.issue(count), "backend": self.backend()}),
            "parent": {"before": before, "ids": self.issue(count), "backends": [backend, self.backend()]},
        }

    def fork_while_another_thread_issues(self) -> object:
        """Fork while a thread is inside next_id(): its lock is held, and in the child for ever."""
        inside, go_on = threading.Event(), threading.Event()

        def linger() -> None:
            inside.set()
            go_on.wait(PATIENCE_S)

        self.issue(1)
        self.before_reading = linger
        thread = threading.Thread(target=self.ids.next_id)
        thread.start()
        inside.wait(PATIENCE_S)
        self.before_reading = bool
        try:
            return in_fork(lambda: self.issue(3))
        finally:
            go_on.set()
            thread.join()

    def backend(self) -> int:
        """Tell which of PostgreSQL's processes serves this one."""
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.pg_backend_pid())).scalar_one())


def in_fork(work: Callable[[], object]) -> object:
    """Run in a forked process and return its answer."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        signal.alarm(PATIENCE_S // 2)  # a deadlock ends, and with it the parent's wait
        with os.fdopen(writer, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.wait()
    return json.loads(answer or '"the forked process died"')


def obey(child: Child, line: str) -> object:
    """Do one command."""
    command, *arguments = json.loads(line)
    try:
        return getattr(child, command)(*arguments)
    except WalletServiceError as error:
        return type(error).__name__


def main() -> None:
    """Answer until stdin ends."""
    signal.alarm(PATIENCE_S)
    child = Child(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(obey(child, line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
