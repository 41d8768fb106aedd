"""Child processes: started tied to their parent, logged as JSON lines, stopped within a bound.

:class:`Child` must be launched from the main thread: the kernel's parent-death signal follows the *thread* that
spawned the child, so a child of a short-lived thread would die with that thread.
"""

import contextlib
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

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
        with open_log(self.spec.log) as log:
            self._process = subprocess.Popen(
                self._launcher_command(),
                cwd=self.spec.cwd,
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL if self.spec.stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE if self.spec.wrap_stdout else log,
                stderr=subprocess.STDOUT if self.spec.wrap_stdout else subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on the terminal reaches the supervisor only
            )
        write_private(self.spec.pid_file, f"{self._process.pid} {process_identity(self._process.pid)}\n")
        self._feed(self._process)
        output = self._process.stdout if self.spec.wrap_stdout else self._process.stderr
        self._pump = threading.Thread(
            target=self._copy_lines, args=(output,), name=f"{self.spec.name} log", daemon=True
        )
        self._pump.start()

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
        self.spec.pid_file.unlink(missing_ok=True)

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
        with output, open_log(self.spec.log) as log:
            while raw := output.readline(MAX_LINE_BYTES):
                line = raw.decode(errors="replace").rstrip()
                if not line:
                    continue
                self.last_lines.append(line)
                with contextlib.suppress(OSError):  # a full disk must not block the child on a full pipe
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


def json_line(record: Mapping[str, object]) -> bytes:
    """One line of a log, with the time in front."""
    time_text = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"time": time_text, **record}).encode() + b"\n"


def is_json_object(line: str) -> bool:
    """Whether a line needs no wrapping."""
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def open_log(path: Path) -> IO[bytes]:
    """Open for appending whole lines, each by one write, beside others that do the same."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0)


def write_private(path: Path, text: str) -> None:
    """Replace a file of mode 0600 in one step: readers see the old text or the new one."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def secret(path: Path) -> str:
    """A password kept in a file, generated when it is first asked for."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()


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
            spec.pid_file.unlink(missing_ok=True)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_for(lambda: process_identity(pid) != identity, timeout_s)
    if process_identity(pid) == identity:
        raise StackError(f"{spec.name} of the last run (pid {pid}) does not stop")
    spec.pid_file.unlink(missing_ok=True)
