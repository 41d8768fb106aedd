"""Child processes: started tied to their parent, logged as JSON lines, stopped within a bound.

:class:`Child` must be launched from the main thread: the kernel's parent-death signal follows the *thread* that
spawned the child, so a child of a short-lived thread would die with that thread.
"""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from ops.local.log_files import LogFile, json_line, open_log
from ops.local.private_files import remove, write_private

LAUNCHER = Path(__file__).with_name("launch.py")
# A longer line is cut in two, so that a child that never ends its line cannot fill the memory.
MAX_LINE_BYTES = 64 * 1024
POLL_S = 0.02
# Not a comparison in place, which type checkers on Linux take to be always true.
IS_LINUX = platform.system() == "Linux"

Identity = Literal["keep", "nobody", "namespace"]
ParseLine = Callable[[str], dict[str, object]]


class StackError(Exception):
    """The local stack cannot start or go on. The message is one line for whoever typed ``make run``."""


def plain_line(line: str) -> dict[str, object]:
    """The record for a line of text that says nothing of itself."""
    return {"level": "error" if "rror" in line else "info", "event": line}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to run, and how it is stopped."""

    name: str
    command: Sequence[str]
    log: Path
    # Holds the pid and its identity, for the next start to find what the last one left.
    pid_file: Path
    cwd: Path
    environment: Mapping[str, str]
    stdin: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    # What a second Ctrl-C sends.
    force_signal: signal.Signals = signal.SIGKILL
    stop_timeout_s: float = 15.0
    death_signal: signal.Signals = signal.SIGKILL
    identity: Identity = "keep"
    # Off: stdout is appended to the log as it is, for programs that write JSON lines themselves.
    wrap_stdout: bool = True
    parse_line: ParseLine = field(default=plain_line)


class Child(ABC):
    """One program, which can be launched again after it has exited."""

    def __init__(self) -> None:
        self.last_lines: deque[str] = deque(maxlen=20)
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._is_noted = False

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What the next launch runs."""

    @property
    def pid(self) -> int | None:
        """The pid of the process that does the work, None before the first launch."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """None while it runs, or before the first launch; negative: the signal that ended it."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        """Launched and not exited."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the program and return at once.

        Raises:
            StackError: it already runs, or the one of the last run does and cannot be stopped.
        """
        if self.is_running:
            raise StackError(f"{self.spec.name} runs already")
        stop_leftover(self.spec)
        self.last_lines.clear()
        self._is_noted = False
        with contextlib.ExitStack() as opened:
            log = None
            if not self.spec.wrap_stdout:
                with contextlib.suppress(OSError):  # its lines go by way of us then, as long as it runs
                    log = opened.enter_context(open_log(self.spec.log))
            self._process = subprocess.Popen(
                self._launcher_command(),
                cwd=self.spec.cwd,
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL if self.spec.stdin is None else subprocess.PIPE,
                stdout=log or subprocess.PIPE,
                stderr=subprocess.PIPE if log else subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C on the terminal reaches the supervisor only
            )
        output = self._process.stdout or self._process.stderr
        self._pump = threading.Thread(
            target=self._copy_lines, args=(output,), name=f"{self.spec.name} log", daemon=True
        )
        try:
            self._pump.start()
        except RuntimeError:  # no thread is to be had: it would stand still at its first full pipe
            self._pump = None
            self.kill()
            raise
        self._feed(self._process)
        with contextlib.suppress(OSError):
            self.note()

    def note(self) -> None:
        """Write down which process it is, unless that is done.

        Raises:
            OSError: it cannot be written. The process does not need it; the next start may, to find it.
        """
        if self.is_running and not self._is_noted:
            write_private(self.spec.pid_file, f"{self.pid} {process_identity(self.pid or 0)}\n")
            self._is_noted = True

    def send(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens if it has exited."""
        if self._process:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """True once it has exited, False when that took longer."""
        if self._process:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        return True

    def kill(self) -> None:
        """SIGKILL it and all of its process group, and wait for the end of it."""
        if self._process is None:
            return
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.forget()

    def stop(self) -> None:
        """Ask it to stop, wait for :attr:`Spec.stop_timeout_s`, then SIGKILL."""
        self.send(self.spec.stop_signal)
        self.wait(self.spec.stop_timeout_s)
        self.kill()

    def forget(self) -> None:
        """Tidy up after the process has exited."""
        if self._pump:
            # Its last lines are in the pipe. A grandchild may hold the pipe open, so not for ever.
            self._pump.join(timeout=2)
        remove(self.spec.pid_file)

    def complaint(self) -> str:
        """Why it failed: the last error that it wrote, or else its last line."""
        if self._pump:
            self._pump.join(timeout=0.5)
        records = [self._parse(line) for line in self.last_lines]
        grave = [record for record in records if record.get("level") in {"error", "critical"}]
        for record in (grave or records)[-1:]:
            reason = str(record.get("exception") or record.get("event") or record)
            return reason.strip().splitlines()[-1]
        return f"exit status {self.exit_status}"

    def _launcher_command(self) -> list[str]:
        spec = self.spec
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(spec.death_signal))]
        return [*launcher, spec.identity, *spec.command]

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin and self.spec.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(self.spec.stdin.encode())

    def _copy_lines(self, output: IO[bytes]) -> None:
        """Append what the child says to its log, each line as a JSON object; runs in a thread of its own."""
        with output, LogFile(self.spec.log) as log:
            while raw := output.readline(MAX_LINE_BYTES):
                line = raw.decode(errors="replace").rstrip()
                if not line:
                    continue
                self.last_lines.append(line)
                # Loses what the disk has no room for: the child must not stand still at a full pipe.
                log.write(line.encode() + b"\n" if is_json_object(line) else json_line(self._parse(line)))

    def _parse(self, line: str) -> dict[str, object]:
        if is_json_object(line):
            return dict(json.loads(line))
        return {"service": self.spec.name, **self.spec.parse_line(line)}


class Command(Child):
    """A program that is the same at every launch."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._spec = spec

    @property
    def spec(self) -> Spec:
        """As given."""
        return self._spec


def is_json_object(line: str) -> bool:
    """Whether a line needs no wrapping."""
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition: True when it came, False when it did not come in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def process_identity(pid: int) -> str:
    """What tells a process from a later one with the same pid; empty when there is none (or a zombie)."""
    if not IS_LINUX:
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return "_".join(answer.stdout.split())
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def stop_leftover(spec: Spec) -> None:
    """Wait for the process of the last run, which may still be on its way out after its supervisor was killed."""
    try:
        pid_text, _, identity = spec.pid_file.read_text().strip().partition(" ")
        pid = int(pid_text)
    except (OSError, ValueError):
        return
    for number, timeout_s in ((spec.stop_signal, spec.stop_timeout_s), (signal.SIGKILL, 5.0)):
        if not identity or process_identity(pid) != identity:
            remove(spec.pid_file)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_for(lambda: process_identity(pid) != identity, timeout_s)
    if process_identity(pid) == identity:
        raise StackError(f"{spec.name} of the last run (pid {pid}) does not stop")
    remove(spec.pid_file)
