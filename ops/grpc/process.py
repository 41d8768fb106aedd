"""One gRPC process: its services made, its calls answered until it is told to stop."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from queue import SimpleQueue

import config
from api.access.token_bucket import BucketStorage, TokenBucket
from api.services import make_services
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.grpc.server import MOST_CONNECTIONS, Server


def serve(ready: Callable[[], None]) -> int:
    """Serve until SIGTERM; return the exit status.

    Args:
        ready: is called once calls are answered.
    """
    # (An Event's lock may be held by the very thread that a signal interrupts; a queue's is made for that.)
    told: SimpleQueue[None] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.put(None))
    # Who wants new code or new settings wants them of all.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getppid(), signal.SIGHUP))
    allow_connections()
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="grpc")
    # Here and not only when they are read: a process that keeps dying would leave ever more files behind.
    metrics_files.tidy()
    serve_metrics(settings.host, settings.metrics_port)
    services = make_services(
        settings, lambda line: TokenBucket(BucketStorage(line=line)), application_name="wallet-grpc"
    )
    try:
        services.identity.prefetch()
        server = Server(settings, services)
        server.start()
        ready()
        told.get()
        server.stop()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    finally:
        services.close()
    return 0


def allow_connections() -> None:
    """Have descriptors for all that may connect, and for what a process needs besides, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(serve(lambda: None))
