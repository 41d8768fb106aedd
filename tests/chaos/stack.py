"""A whole service to be hard on: ``python -m ops.local.stack`` on a home of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.announced import Announced
from tests.kafka_broker import FIRST_START_S
from tests.nursery import Forked, run
from tests.project import ROOT

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0


class Stack:
    """Use it as a context manager: it is ready within, and gone after."""

    def __init__(self, home: Path, *, grpc: bool = False, **settings: str) -> None:
        """Start nothing yet.

        Args:
            home: its WALLET_HOME.
            grpc: whether it has gRPC processes.
            settings: those that are not to have their defaults.
        """
        # Both at once, or they might be the same.
        with _free_port() as port, _free_port() as grpc_port:
            self.port = port
        self.grpc_target = f"127.0.0.1:{grpc_port}" if grpc else None
        self.home = home
        self.transport = settings.get("TRANSPORT", "rq")
        # With TRANSPORT=kafka.
        self.announced = Announced()
        self._environment = {
            "PATH": os.environ["PATH"],
            "WALLET_HOME": str(home),
            "PORT": str(self.port),
            "GRPC_PORT": str(grpc_port) if grpc else "off",
            "RATE_LIMIT": "off",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def state(self) -> dict[str, Any]:
        """Return what stack.json says now."""
        found: dict[str, Any] = json.loads((self.home / "run" / "stack.json").read_text())
        return found

    def grpc_pids(self) -> list[int]:
        """Return the pids of its gRPC processes, without their master; none where it has none."""
        found: list[int] = self.state().get("grpc", {}).get("pids", [])
        return found

    def kill(self, pid: int) -> None:
        """Kill one of its processes, without a chance to tidy up."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def flask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the service beside it, on what it uses."""
        environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(self.home)}
        return run([sys.executable, "-m", "flask", *arguments], cwd=ROOT, env=environment, text=True)

    def start(self) -> None:
        """Start it, again if it has run before, and return when it is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "output").open("ab") as output:
            self._process = Forked(
                [sys.executable, "-m", "ops.local.stack"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = self.home / "run" / "stack.json"
        timeout_s = FIRST_START_S if self.transport == "kafka" else START_TIMEOUT_S
        wait_until(lambda: ready.exists() or not self.is_running, timeout_s, "the stack is ready")
        assert self.is_running, (self.home / "output").read_text()

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Tell it to stop, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it takes longer than that.
        """
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        yield probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait for a condition and return how many seconds it took.

    Raises:
        TimeoutError: it did not come true in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began
