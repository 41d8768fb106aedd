"""One gRPC process: its services made, its calls answered until it is told to stop."""

import os
import signal
import sys
import threading
from collections.abc import Callable

import config
from api.access.token_bucket import BucketStorage, TokenBucket
from api.services import make_services
from observe import logs, metrics_files
from observe.metrics_server import serve_metrics
from ops.grpc.server import Server


def serve(ready: Callable[[], None]) -> int:
    """Serve until SIGTERM; return the exit status.

    Args:
        ready: is called once calls are answered.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    # Who wants new code or new settings wants them of all.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getppid(), signal.SIGHUP))
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
        told.wait()
        server.stop()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    finally:
        services.close()
    return 0


if __name__ == "__main__":
    sys.exit(serve(lambda: None))
