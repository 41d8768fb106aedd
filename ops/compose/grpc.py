"""The gRPC processes of a container: ``python -m ops.compose.grpc [FOLDER]``.

Several processes share the port, and gRPC has no master as gunicorn has one: this is it. It holds the port, replaces
who dies, passes a stop on, and on SIGHUP has them all replaced: each leaves when it is its turn, so that the others
serve meanwhile. What they have counted together is shown by it too, since it outlives them. It knows nothing of gRPC.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import structlog

import config
from config import Settings
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.compose.entry import TURNS
from ops.local.grpc_processes import GrpcProcesses
from ops.local.processes import Child, Command, Spec, StackError
from ops.local.stopping import StopRequests
from ops.local.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]

_log = structlog.get_logger("grpc")


def main(arguments: Sequence[str]) -> int:
    """Keep them alive until told to stop; the exit status."""
    folder = Path(arguments[0]) if arguments else TURNS
    settings = config.load_or_exit(Settings)
    logs.configure(settings.log_level, service="grpc")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    serve_metrics(settings.host, settings.metrics_port)
    try:
        with StopRequests(stops_at_hangup=False) as stop:
            _supervise(settings, folder, stop)
    except config.ConfigurationError as error:
        return config.complain(str(error))
    except StackError as error:
        print(f"grpc: {error}", file=sys.stderr)
        return 1
    return 0


def _supervise(settings: Settings, folder: Path, stop: StopRequests) -> None:
    crew = GrpcProcesses(settings, folder)

    def reload_if_told() -> None:
        if stop.hung_up:
            stop.hung_up = False
            for child in crew.children:
                child.send(signal.SIGHUP)

    def make_child(name: str, arguments: Sequence[str]) -> Child:
        return _make_child(name, arguments, folder, settings.graceful_timeout_s + 5.0)

    # Who keeps dying would leave ever more files behind.
    supervisor = Supervisor(stop, say=_say, on_replaced=metrics_files.tidy, on_round=reload_if_told)
    crew.take_port()
    try:
        supervisor.add_layer(crew.make(make_child))
        supervisor.run()
    finally:
        supervisor.stop()
        crew.close()


def _make_child(name: str, arguments: Sequence[str], folder: Path, stop_timeout_s: float) -> Child:
    return Command(
        Spec(
            name=name,
            command=[sys.executable, *arguments],
            log=Path("stdout"),
            open_log=_open_stdout,
            pid_file=folder / f"{name}.pid",
            cwd=ROOT,
            environment=os.environ,
            stop_timeout_s=stop_timeout_s,
            wrap_stdout=False,
        )
    )


def _open_stdout(_log_file: Path) -> IO[bytes]:
    """Ours, by a descriptor of its own, which whoever has it may close."""
    return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)


def _say(event: str, *, level: str = "info", **fields: object) -> None:
    getattr(_log, level)(event, **fields)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
