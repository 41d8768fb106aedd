"""Child processes that have their libraries already: what ``python …`` would run, forked instead of started anew.

Most of what a short-lived child of a test costs is importing SQLAlchemy, redis, pydantic and their like, always the
same. So one process imports them once for all and starts nothing; :class:`Forked` is a ``Popen`` whose child is
forked from it. Nothing of the project is imported before the fork: our own modules read their environment, code of
another folder can be run, and what is counted begins at zero, just as in a process of its own.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.project import ROOT

_POLL_S = 0.005

Completed = subprocess.CompletedProcess[Any]


class _Nursery:
    """The process that others are forked from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Of our environment what it needs itself: each child is given one of its own.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery_child", str(theirs.fileno())],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def ask(self, request: dict[str, Any], files: Sequence[int] = ()) -> Any:
        """Have something done, and return what came of it."""
        with self._lock:
            socket.send_fds(self._line, [json.dumps(request).encode()], files)
            return json.loads(self._line.recv(65_536))

    def close(self) -> None:
        """Let it end, and with it whatever still lives of what it was asked for."""
        self._line.close()
        self._process.wait()


_nurseries: list[_Nursery] = []


def _nursery() -> _Nursery:
    if not _nurseries:
        _nurseries.append(_Nursery())
        atexit.register(_nurseries[0].close)
    return _nurseries[0]


class Forked(subprocess.Popen[Any]):
    """A ``Popen`` of ``[sys.executable, "-c" | "-m" | file, …]`` that starts within milliseconds.

    Of Popen's options it knows ``stdin``, ``stdout``, ``stderr``, ``cwd``, ``env``, ``pass_fds``,
    ``start_new_session``, and those about text.
    """

    def wait_until_stopped(self) -> None:
        """Wait for SIGSTOP to have had its effect."""
        while not _nursery().ask({"is_stopped": self.pid}):
            assert self.poll() is None, "it has ended instead"
            time.sleep(_POLL_S)

    def _execute_child(self, args: Any, _executable: Any, _preexec: Any, _close: Any, pass_fds: Any, cwd: Any,
                       env: Any, *others: Any) -> None:  # fmt: skip
        _startupinfo, _flags, _shell, stdin, to_stdin, from_stdout, stdout, from_stderr, stderr, *rest = others
        program, *arguments = map(os.fspath, args)
        assert program == sys.executable
        task = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "keep": list(pass_fds),
            "leads_a_session": bool(rest[5]),
        }
        standard = [number if given == -1 else given for number, given in enumerate((stdin, stdout, stderr))]
        self.pid = _nursery().ask({"start": task}, [*standard, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(stdin, to_stdin, from_stdout, stdout, from_stderr, stderr)  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: Any = None, *_: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        code: int | None = self.returncode
        return code

    def _try_wait(self, flags: int) -> tuple[int, int]:
        while (status := _nursery().ask({"look": self.pid})) is None:
            if flags & os.WNOHANG:
                return 0, 0
            time.sleep(_POLL_S)
        return self.pid, status


def run(
    arguments: Sequence[str | os.PathLike[str]], *, timeout: float = 60, check: bool = False, **options: Any
) -> Completed:
    """Do what ``subprocess.run`` does, with a forked child and what it says captured."""
    with Forked(list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            said = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    completed = subprocess.CompletedProcess(process.args, process.returncode, *said)
    if check:
        completed.check_returncode()
    return completed
