"""One gRPC process: its services made, its calls answered until it is told to leave."""

import gc
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import config
from api.access.token_bucket import BucketStorage, TokenBucket
from api.services import make_services
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.grpc.library_lines import tell_only_ours
from ops.grpc.server import MOST_CONNECTIONS, Server
from ops.local.descriptors import allow_connections
from ops.local.stopping import StopRequests
from ops.local.turns import Turns

# How long a process that is to be replaced waits for its turn: the others may each take as long to end.
TURN_TIMEOUT_S = 600.0
# An upper bound only: signals end the sleep.
_TICK_S = 0.5


def serve(folder: Path | None = None, number: int = 0) -> int:
    """Serve until SIGTERM, or until it is this process's turn after SIGHUP; return the exit status.

    Args:
        folder: where it and its siblings tell each other whose turn it is; None: it has none.
        number: its own among them.
    """
    # For as long as the process lives: no signal of it is given back.
    stop = ExitStack().enter_context(StopRequests(stops_at_hangup=False))
    allow_connections(MOST_CONNECTIONS)
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="grpc")
    tell_only_ours()
    # Here and not only when they are read: a process that keeps dying would leave ever more files behind.
    metrics_files.tidy()
    serve_metrics(settings.host, settings.metrics_port, is_shared=settings.grpc_processes > 1)
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
        _wait_until_it_may_leave(stop, turns, settings.grpc_processes - 1)
        if turns is not None:
            turns.leave()
        server.stop()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    finally:
        services.close()
        # Told once more on its way out, it would end as if it had been killed: Python gives signals back before that.
        for late in (signal.SIGTERM, signal.SIGINT):
            signal.signal(late, signal.SIG_IGN)
    return 0


def _wait_until_it_may_leave(stop: StopRequests, turns: Turns | None, others: int) -> None:
    while stop.is_wanted():
        stop.sleep(_TICK_S)
        if stop.hung_up:
            stop.hung_up = False
            # Successors that do not come are no reason to leave nobody there.
            if turns is None or turns.wait_for_turn(others, TURN_TIMEOUT_S, stop.is_wanted):
                return


if __name__ == "__main__":
    sys.exit(serve())
