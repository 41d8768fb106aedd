"""A gRPC process that is watched: by its metrics, its memory, and the callers that it does not get rid of."""

import http.client
import signal
import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from tests.api.grpc.server import SERVICE, TIMEOUT_S, GrpcServer
from tests.samples import Samples
from wallet.v1.wallet_pb2 import Job, JobRequest


@dataclass(frozen=True, slots=True)
class Served:
    """A process, and where its metrics are."""

    server: GrpcServer
    metrics_port: int

    def samples(self) -> Samples:
        """Return what it has counted."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/metrics")
            return Samples.of(connection.getresponse().read())

    def calls(self, method: str, code: str | None = None) -> float:
        """How many calls have ended, with a code or any."""
        labels = {"method": method} | ({} if code is None else {"code": code})
        return self.samples().sum("wallet_grpc_call_duration_seconds_count", **labels)

    @property
    def watchers(self) -> float:
        """How many watch."""
        return self.samples().value("wallet_grpc_watchers")

    @property
    def shed_watchers(self) -> float:
        """How many wanted to watch, and found no room."""
        return self.samples().value("wallet_shed_total", where="watching")

    @property
    def rss_mb(self) -> float:
        """Its memory."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def watch(self, job_id: int, *, user: int = 1, channel: grpc.Channel | None = None, **how: Any) -> Any:
        """Begin to watch a job; the call can be iterated over, and cancelled."""
        watch: Any = (channel or self.server.channel).unary_stream(
            f"/{SERVICE.full_name}/WatchJob",
            request_serializer=JobRequest.SerializeToString,
            response_deserializer=Job.FromString,
        )
        return watch(JobRequest(job_id=job_id), metadata=(("authorization", str(user)),), **how)

    def stop(self) -> int:
        """Tell it to stop, and return its exit status."""
        self.server.process.send_signal(signal.SIGTERM)
        return self.server.process.wait(timeout=TIMEOUT_S)


class Serve(Protocol):
    """Starts a process without a throttle, unless the settings say so."""

    def __call__(self, **settings: str) -> Served:
        """Start it; it ends with the test."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
