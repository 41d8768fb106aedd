"""Worker processes for tests: started from a nursery, watched, told to stop, and gone at the end in any case."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ops.local.processes import wait_for
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT


class WorkerProcess:
    """One worker."""

    def __init__(self, nursery: "WorkerNursery", pid: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.log = log

    def look(self) -> dict[str, Any]:
        return self._nursery.ask({"look": self.pid})

    @property
    def is_running(self) -> bool:
        return bool(self.look()["state"] == "running")

    def wait_until_killed(self) -> None:
        """Wait until it has died at its point, and of nothing else."""
        assert self.wait() == -signal.SIGKILL, self.log.read_text()

    def wait_until_stopped(self) -> None:
        """Wait until it stands frozen at its point."""
        assert wait_for(lambda: self.look()["state"] == "stopped", PATIENCE_S), self.log.read_text()

    def wait(self) -> int:
        """Wait for its end and return its exit status; negative: the signal that ended it."""
        assert wait_for(lambda: self.look()["state"] == "ended", PATIENCE_S), self.log.read_text()
        return int(self.look()["status"])

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Tell it to stop, which it does without complaint."""
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.log.read_text()


class WorkerNursery:
    """Where worker processes come from. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._popen = Forked(
            [sys.executable, "-m", "tests.jobs.worker_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started: list[WorkerProcess] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._popen.communicate(timeout=PATIENCE_S)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(request) + "\n")
        self._popen.stdin.flush()
        answer: dict[str, Any] = json.loads(self._popen.stdout.readline())
        return answer

    def start(
        self, entry: str, environment: dict[str, str], *strikes: dict[str, Any], constants: dict[str, float]
    ) -> WorkerProcess:
        """Start a process that is struck at the points given, with some constants of ``jobs.rq.worker`` changed."""
        self._count += 1
        log = self._folder / f"worker-{self._count}.log"
        log.touch()
        task = {
            "entry": entry,
            "environment": environment,
            "constants": constants,
            "strikes": strikes,
            "log": str(log),
        }
        self._started.append(WorkerProcess(self, self.ask({"start": task})["pid"], log))
        return self._started[-1]

    def end_all(self) -> None:
        """Kill whatever a test has left."""
        while self._started:
            process = self._started.pop()
            if process.look()["state"] != "ended":
                process.send(signal.SIGKILL)
                process.wait()


def kills(point: str, when: str, **only: int) -> dict[str, Any]:
    """Be killed at a point."""
    return {"point": point, "when": when, "signal": "SIGKILL", **only}


def terminates(point: str, when: str, **only: int) -> dict[str, Any]:
    """Be told to stop at a point."""
    return {"point": point, "when": when, "signal": "SIGTERM", **only}


def freezes(point: str, when: str, **only: int) -> dict[str, Any]:
    """Be frozen at a point."""
    return {"point": point, "when": when, "signal": "SIGSTOP", **only}
