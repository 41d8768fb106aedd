"""A gRPC server that has its health and nothing else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True, slots=True)
class HealthyServer:
    """A running server."""

    port: int
    servicer: health.HealthServicer

    def say(self, status: int) -> None:
        """Answer this from now on."""
        self.servicer.set("", status)


@contextmanager
def grpc_server(certificate: Path | None = None, *, host: str = "127.0.0.1") -> Iterator[HealthyServer]:
    """Serve on a free port; with TLS if there is a file with certificate and key."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if certificate is None:
        port = server.add_insecure_port(f"{host}:0")
    else:
        pem = certificate.read_bytes()
        port = server.add_secure_port(f"{host}:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    served = HealthyServer(port, servicer)
    served.say(SERVING)
    try:
        yield served
    finally:
        server.stop(None).wait()
