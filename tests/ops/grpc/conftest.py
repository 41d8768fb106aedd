"""gRPC processes with settings of a test's own."""

import pytest

from tests.api.grpc.conftest import grpc_environment, start
from tests.api.grpc.server import Starter
from tests.ops.grpc.serving import Serve, Served, free_port

__all__ = ["grpc_environment", "start"]


@pytest.fixture
def serve(start: Starter) -> Serve:
    """A starter of processes on empty tables that show their metrics."""

    def serve(**settings: str) -> Served:
        metrics_port = free_port()
        fixed = {"METRICS_PORT": str(metrics_port), "RATE_LIMIT": "off"}
        return Served(start(**fixed | settings), metrics_port)

    return serve
