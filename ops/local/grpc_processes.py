"""The gRPC processes of a stack: their master, where they are found, and whether all of them serve.

The stack knows nothing of gRPC itself: its library would be memory for nothing. Who serves is what the processes say by
their locks (:mod:`ops.local.turns`), and they say so after their health does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from config import Settings
from config.addresses import address_of, reachable
from ops.local.port_guard import PortGuard, wait_for_port
from ops.local.processes import Child
from ops.local.turns import Turns

# Makes a child that runs Python with these arguments, by its name.
MakeChild = Callable[[str, Sequence[str]], Child]


class GrpcProcesses:
    """Those of one stack; none with GRPC_PORT=off."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Touch nothing yet.

        Args:
            settings: their host, port and number.
            folder: where they tell each other whose turn it is.
        """
        self._settings = settings
        self._folder = folder
        self._turns: Turns | None = None
        self._pids: list[int] = []

    @property
    def is_on(self) -> bool:
        """Whether there are any."""
        return self._settings.grpc_port is not None

    @property
    def target(self) -> str:
        """Where a client on this machine finds them, as gRPC spells it."""
        return address_of(reachable(self._settings.host), self._settings.grpc_port or 0)

    @property
    def pids(self) -> list[int]:
        """The pids of those that serve, or of those that last did so together."""
        if self._turns is not None:
            found = self._turns.serving_pids()
            if len(found) >= self._settings.grpc_processes:
                self._pids = found
        return self._pids

    def check_port(self) -> None:
        """See that they will be able to listen.

        Raises:
            StackError: somebody else has their port.
        """
        host, port = self._settings.host, self._settings.grpc_port
        if port is not None:
            wait_for_port("GRPC_PORT", host, port, lambda: PortGuard(host, port).close())

    def make(self, make_child: MakeChild) -> Sequence[Child]:
        """Make the master, to be launched."""
        if not self.is_on:
            return ()
        self._turns = Turns(self._folder)
        return (make_child("grpc", ("-m", "ops.grpc", str(self._folder))),)

    def are_serving(self) -> bool:
        """Whether all of them say that they serve."""
        return self._turns is None or self._turns.count_serving() >= self._settings.grpc_processes

    def close(self) -> None:
        """Look at them no more."""
        if self._turns:
            self._turns.close()
        self._turns = None
