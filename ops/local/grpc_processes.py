"""The gRPC processes of a stack: what they run, the port that they share, and whether all of them serve.

Whoever supervises them knows nothing of gRPC itself: its library would be memory for nothing. Whether they serve is
what they say by their locks (:mod:`ops.grpc.turns`), and they say so after their health does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from config import Settings
from ops.grpc.turns import Turns
from ops.local import processes
from ops.local.port_guard import PortGuard
from ops.local.processes import Child, StackError

# The processes of a run before may be on their way out, after their supervisor was killed.
PORT_TIMEOUT_S = 3.0

# Makes a child that runs Python with these arguments, by its name.
MakeChild = Callable[[str, Sequence[str]], Child]


class GrpcProcesses:
    """All of one supervisor's; none with GRPC_PORT=off."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Touch nothing yet.

        Args:
            settings: their host, port and number.
            folder: where they tell each other whose turn it is.
        """
        self._settings = settings
        self._folder = folder
        self._guard: PortGuard | None = None
        self._turns: Turns | None = None
        self.children: list[Child] = []

    @property
    def is_on(self) -> bool:
        """Whether there are any."""
        return self._settings.grpc_port is not None

    @property
    def target(self) -> str:
        """Where a client on this machine finds them, as gRPC spells it."""
        return f"{bracketed(reachable(self._settings.host))}:{self._settings.grpc_port}"

    @property
    def pids(self) -> list[int | None]:
        """Their pids, of those that run or have last run."""
        return [child.pid for child in self.children]

    def take_port(self) -> None:
        """Keep the port for them; call :meth:`close` once they have ended.

        Raises:
            StackError: somebody else has it.
        """
        host, port = self._settings.host, self._settings.grpc_port
        if port is None:
            return
        problem: list[OSError] = []

        def is_taken() -> bool:
            problem.clear()
            try:
                self._guard = PortGuard(host, port)
            except OSError as error:
                problem.append(error)
            return not problem

        if not processes.wait_for(is_taken, PORT_TIMEOUT_S):
            raise StackError(f"cannot listen on GRPC_PORT={port} of HOST={host}: {problem[0].strerror}")

    def make(self, make_child: MakeChild) -> Sequence[Child]:
        """Make them, to be launched."""
        if self.is_on:
            self._turns = Turns(self._folder)
            numbers = range(1, self._settings.grpc_processes + 1)
            self.children = [make_child(f"grpc-{number}", self._arguments(number)) for number in numbers]
        return self.children

    def are_serving(self) -> bool:
        """Whether all of them say that they serve."""
        return self._turns is None or self._turns.count_serving() >= len(self.children)

    def close(self) -> None:
        """Let go of the port."""
        if self._guard:
            self._guard.close()
        if self._turns:
            self._turns.close()
        self._guard = self._turns = None

    def _arguments(self, number: int) -> Sequence[str]:
        return ("-m", "ops.grpc", "--turns", str(self._folder), "--number", str(number))


def reachable(host: str) -> str:
    """An address at which this machine reaches what listens on the host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def bracketed(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
