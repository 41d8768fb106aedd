"""The entry of a gRPC process: ``python -m ops.grpc``."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc

import config
from observe import logs


def main() -> None:
    """Serve until told to stop."""
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="grpc")
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 1),))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(f"{settings.host}:{settings.grpc_port}")
    server.start()
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    told.wait()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
