"""The master of the gRPC processes, in ``make run``, in a container, or started by hand.

It holds the port that they share, replaces who dies, passes a stop on, and on SIGHUP has them all replaced: each leaves
when it is its turn, so that the others serve meanwhile.

They are forked, to share the memory of the libraries that it loads for them. gRPC's own is not one of these: it must
not be used before a fork. Nor is any code of ours that they run: each loads that anew, and so a reload brings new code.
"""

import gc
import importlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog

import config
from config import Settings
from observe import logs
from ops.grpc import tls
from ops.local.forks import Forked
from ops.local.port_guard import PortGuard, wait_for_port
from ops.local.processes import Spec, StackError
from ops.local.stopping import StopRequests
from ops.local.supervisor import CONFIGURATION_STATUS, Supervisor

ROOT = Path(__file__).resolve().parents[2]
# Ours, of which a process loads all that it runs.
ROOMS = frozenset({"api", "config", "jobs", "models", "observe", "ops", "wallet"})
LIBRARIES = (
    "google.protobuf.descriptor_pb2",
    "google.protobuf.unknown_fields",
    "hiredis",
    "limits",
    "orjson",
    "psycopg2.extras",
    "pydantic",
    "pydantic_settings",
    "redis",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "structlog",
)
TOKEN_LIBRARIES = ("jwt",)

_log = structlog.get_logger("grpc")


def main(arguments: Sequence[str]) -> int:
    """Keep them alive until told to stop; the exit status.

    Args:
        arguments: the folder where they tell each other whose turn it is; by default one that nobody else looks at.
    """
    settings = config.load_or_exit(Settings)
    logs.configure(settings.log_level, service="grpc")
    try:
        with ExitStack() as stack:
            folder = arguments[0] if arguments else stack.enter_context(tempfile.TemporaryDirectory(prefix="grpc-"))
            stop = stack.enter_context(StopRequests(stops_at_hangup=False))
            _supervise(settings, Path(folder), stop)
    except config.ConfigurationError as error:
        # A process that says it has told it already.
        return config.complain(str(error)) if str(error) else CONFIGURATION_STATUS
    except StackError as error:
        print(f"grpc: {error}", file=sys.stderr)
        return 1
    return 0


def _supervise(settings: Settings, folder: Path, stop: StopRequests) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.grpc_port is None:
        _log.info("nothing is served: GRPC_PORT=off")
    tls.check(settings)
    guard = _take_port(settings)
    try:
        _load_libraries(settings)
        crew = [_make(number, folder, settings) for number in _numbers(settings)]
        supervisor = Supervisor(stop, say=_say, on_round=partial(_reload_if_told, stop, crew))
        try:
            supervisor.add_layer(crew)
            supervisor.run()
        finally:
            supervisor.stop()
    finally:
        if guard is not None:
            guard.close()


def _numbers(settings: Settings) -> range:
    return range(1, settings.grpc_processes + 1) if settings.grpc_port is not None else range(0)


def _take_port(settings: Settings) -> PortGuard | None:
    """Keep the port for them.

    Raises:
        StackError: somebody else has it.
    """
    host, port = settings.host, settings.grpc_port
    if port is None:
        return None
    taken: list[PortGuard] = []
    wait_for_port("GRPC_PORT", host, port, lambda: taken.append(PortGuard(host, port)))
    return taken[0]


def _load_libraries(settings: Settings) -> None:
    """Load what they share, and have no collector write into it: what is written to is shared no more."""
    for library in (*LIBRARIES, *(TOKEN_LIBRARIES if settings.auth_mode == "jwt" else ())):
        importlib.import_module(library)
    gc.collect()
    gc.freeze()


def _make(number: int, folder: Path, settings: Settings) -> Forked:
    name = f"grpc-{number}"
    spec = Spec(
        name=name,
        command=(),
        log=Path("stdout"),
        pid_file=folder / f"{name}.pid",
        cwd=ROOT,
        environment={},
        stop_timeout_s=settings.graceful_timeout_s + 5.0,
    )
    return Forked(spec, partial(_serve, folder, number))


def _serve(folder: Path, number: int) -> int:
    """Be one of them: runs in a process of its own."""
    for name in [each for each in sys.modules if each.partition(".")[0] in ROOMS]:
        del sys.modules[name]
    status: int = importlib.import_module("ops.grpc.process").serve(folder, number)
    return status


def _reload_if_told(stop: StopRequests, crew: Sequence[Forked]) -> None:
    if stop.hung_up:
        stop.hung_up = False
        for child in crew:
            child.send(signal.SIGHUP)


def _say(event: str, *, level: str = "info", **fields: object) -> None:
    getattr(_log, level)(event, **fields)
