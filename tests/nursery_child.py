"""The process that others are forked from, see :mod:`tests.nursery`: ``python -m tests.nursery_child DESCRIPTOR``.

Each message asks for one thing, and is answered with what came of it:

    {"start": {"arguments": ["-m", "flask"], "cwd": "…", "environment": {…}, "keep": [7], …}}  →  the child's pid
    {"look": 1}  →  null while it runs, then its status as ``waitpid`` has it
    {"is_stopped": 1}  →  whether SIGSTOP has had its effect

With the first come descriptors: the three standard ones, then those that the child is to have under given numbers.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from typing import Any

# Whatever the service, its commands and the workers use; nothing of the project, and neither prometheus_client nor
# gunicorn: when they are imported the one looks at the environment, the other at the folder it is in.
LIBRARIES = (
    "alembic.command",
    "alembic.config",
    "alembic.runtime.migration",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "flask",
    "flask_compress",
    "flask_cors",
    "flask_limiter",
    "flask_swagger_ui",
    "jwt",
    "orjson",
    "psycopg2.extras",
    "pydantic",
    "pydantic_settings",
    "redis",
    "rq",
    "rq_dashboard",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "structlog",
)


class Nursery:
    """Forks children, and remembers how they have ended."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._awake, self._wake = socket.socketpair()
        for end in (self._awake, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._ended: dict[int, int | None] = {}

    def serve(self) -> dict[str, Any] | None:
        """Do what is asked for until nobody asks any more; in a child, return what it is to be."""
        while True:
            readable, _, _ = select.select([self._line, self._awake], [], [])
            with suppress(BlockingIOError):
                self._awake.recv(4_096)
            # At once, asked for or not: nobody shall find a zombie where somebody was killed.
            self._reap()
            if self._line not in readable:
                continue
            message, files, _, _ = socket.recv_fds(self._line, 1 << 20, 16)
            if not message:
                self._end_all()
                return None
            request = json.loads(message)
            if "start" not in request:
                answer = self._look(request)
            elif (answer := os.fork()) == 0:
                self._forget()
                settle_in(request["start"], files)
                return dict(request["start"])
            else:
                self._ended[answer] = None
                for file in files:
                    os.close(file)
            self._line.send(json.dumps(answer).encode())

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._ended[pid] = status

    def _look(self, request: dict[str, int]) -> int | None:
        if "look" in request:
            return self._ended[request["look"]]
        with suppress(ChildProcessError):
            stops = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, request["is_stopped"], stops) is not None
        return False

    def _forget(self) -> None:
        """Be a child, and no nursery any more."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._awake, self._wake, self._line):
            end.close()

    def _end_all(self) -> None:
        for pid in (pid for pid, status in self._ended.items() if status is None):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def settle_in(task: dict[str, Any], files: list[int]) -> None:
    """Have the folder, the environment and the descriptors that are given."""
    # Out of the way of the numbers that they are to have.
    high = [os.dup(os.dup2(file, 200 + place)) for place, file in enumerate(files)]
    for file in (*files, *(200 + place for place in range(len(files)))):
        os.close(file)
    for file, number in zip(high, [0, 1, 2, *task["keep"]], strict=True):
        os.dup2(file, number)
        os.close(file)
    if task["leads_a_session"]:
        os.setsid()
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the process's own
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def become(arguments: list[str], cwd: str) -> None:
    """Run what ``python`` with these arguments would run."""
    how, *rest = arguments
    if how == "-m":
        sys.argv, sys.path[0] = ["-m", *rest[1:]], cwd
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)  # noqa: S102 - that is what -c does
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(how))  # noqa: PTH100, PTH120
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    assert threading.active_count() == 1
    assert not {"gunicorn", "prometheus_client"} & sys.modules.keys()
    assert not {"api", "config", "jobs", "models", "observe"} & sys.modules.keys()
    gc.freeze()
    if (task := Nursery(socket.socket(fileno=int(sys.argv[1]))).serve()) is not None:
        become(task["arguments"], task["cwd"])
