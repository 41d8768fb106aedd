"""One gRPC process: its services made, its calls answered until it is told to leave."""

import gc
import signal
import sys
import threading
from pathlib import Path

import config
from api.access.token_bucket import BucketStorage, TokenBucket
from api.services import make_services
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.grpc.server import Server
from ops.local.turns import Turns

# How long a process that is to be replaced waits for its turn: the others may each take as long to end.
TURN_TIMEOUT_S = 600.0


def serve(folder: Path | None = None, number: int = 0) -> int:
    """Serve until SIGTERM, or until it is this process's turn after SIGHUP; return the exit status.

    Args:
        folder: where it and its siblings tell each other whose turn it is; None: it has none.
        number: its own among them.
    """
    stops, leaves = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        stops.set()
        leaves.set()

    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, stop)
    signal.signal(signal.SIGHUP, lambda *_: leaves.set())
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="grpc")
    # Here and not only when they are read: a process that keeps dying would leave ever more files behind.
    metrics_files.tidy()
    serve_metrics(settings.host, settings.metrics_port)
    services = make_services(
        settings, lambda line: TokenBucket(BucketStorage(line=line)), application_name="wallet-grpc"
    )
    turns = None if folder is None else Turns(folder, number)
    try:
        services.identity.prefetch()
        server = Server(settings, services)
        server.start()
        # The collector passes over what is loaded, and so does not write into what processes share.
        gc.freeze()
        if turns is not None:
            turns.serving()
        _wait_until_it_may_leave(turns, settings.grpc_processes - 1, stops, leaves)
        if turns is not None:
            turns.leave()
        server.stop()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    finally:
        services.close()
    return 0


def _wait_until_it_may_leave(turns: Turns | None, others: int, stops: threading.Event, leaves: threading.Event) -> None:
    while not stops.is_set():
        leaves.wait()
        # Successors that do not come are no reason to leave nobody there.
        if turns is None or turns.wait_for_turn(others, TURN_TIMEOUT_S, lambda: not stops.is_set()):
            return
        if not stops.is_set():
            leaves.clear()


if __name__ == "__main__":
    sys.exit(serve())
