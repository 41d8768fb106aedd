"""One gRPC process: its services made, its calls answered until it is told to leave."""

import gc
import resource
import signal
import sys
from pathlib import Path
from queue import Empty, SimpleQueue

import config
from api.access.token_bucket import BucketStorage, TokenBucket
from api.services import make_services
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.grpc.library_lines import tell_only_ours
from ops.grpc.server import MOST_CONNECTIONS, Server
from ops.local.turns import Turns

# How long a process that is to be replaced waits for its turn: the others may each take as long to end.
TURN_TIMEOUT_S = 600.0
STOPPING = (signal.SIGTERM, signal.SIGINT)
_TICK_S = 0.5


def serve(folder: Path | None = None, number: int = 0) -> int:
    """Serve until SIGTERM, or until it is this process's turn after SIGHUP; return the exit status.

    Args:
        folder: where it and its siblings tell each other whose turn it is; None: it has none.
        number: its own among them.
    """
    told = Told()
    for stopping in STOPPING:
        signal.signal(stopping, told.stop)
    signal.signal(signal.SIGHUP, told.leave)
    allow_connections()
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
        _wait_until_it_may_leave(turns, settings.grpc_processes - 1, told)
        if turns is not None:
            turns.leave()
        server.stop()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    finally:
        services.close()
        # Told once more on its way out, it would end as if it had been killed: Python gives signals back before that.
        for stopping in STOPPING:
            signal.signal(stopping, signal.SIG_IGN)
    return 0


class Told:
    """What this process has been told by signals.

    An Event would not do: its lock may be held by the very thread that a signal interrupts. A queue is made for that.
    """

    def __init__(self) -> None:
        self.stops = False
        self.news: SimpleQueue[None] = SimpleQueue()

    def stop(self, *_: object) -> None:
        """End, whoever else is there."""
        self.stops = True
        self.news.put(None)

    def leave(self, *_: object) -> None:
        """End when it is its turn."""
        self.news.put(None)


def _wait_until_it_may_leave(turns: Turns | None, others: int, told: Told) -> None:
    while not told.stops:
        # Not without an end: a signal that another thread has been given, or that came just before, wakes nobody here.
        try:
            told.news.get(timeout=_TICK_S)
        except Empty:
            continue
        # Successors that do not come are no reason to leave nobody there.
        if turns is None or turns.wait_for_turn(others, TURN_TIMEOUT_S, lambda: not told.stops):
            return


def allow_connections() -> None:
    """Have descriptors for all that may connect, and for what a process needs besides, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(serve())
