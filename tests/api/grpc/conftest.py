"""One gRPC process for all tests of a test process, and others for those that need other settings."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
import redis
from sqlalchemy import Engine

from tests.api.grpc.server import GrpcServer, Starter, environment_of, fund, grpc_server
from tests.conftest import ADMIN_PASSWORD
from tests.proxy import TcpProxy


@pytest.fixture(scope="session")
def postgres(service_database_url: str) -> Iterator[TcpProxy]:
    """What stands between a process and PostgreSQL."""
    with TcpProxy.before(service_database_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def grpc_environment(service_database_url: str, redis_url: str) -> dict[str, str]:
    """What a process on the test run's servers is set to."""
    return dict(environment_of(service_database_url, redis_url, ADMIN_PASSWORD))


@pytest.fixture(scope="session")
def grpc_process(tmp_path_factory: pytest.TempPathFactory, grpc_environment: dict[str, str]) -> Iterator[GrpcServer]:
    """One process for all; ask for ``server``."""
    with grpc_server(tmp_path_factory.mktemp("grpc") / "grpc.log", **grpc_environment) as server:
        yield server


@pytest.fixture
def server(grpc_process: GrpcServer, engine: Engine, redis_client: redis.Redis) -> GrpcServer:
    """The process, with empty tables but for users 1 and 2, who have 10000 cents each."""
    del engine, redis_client  # asked for to be emptied
    fund(grpc_process, 1, 2)
    return grpc_process


class Shared(Protocol):
    """Gives a process with other settings than all others have, to whoever asks for these."""

    def __call__(self, **settings: str) -> GrpcServer:
        """Give it; the next test may have it, too."""


@pytest.fixture(scope="session")
def grpc_processes(tmp_path_factory: pytest.TempPathFactory, grpc_environment: dict[str, str]) -> Iterator[Shared]:
    """All that were asked for so far; ask for ``shared``."""
    with ExitStack() as running:

        @functools.cache
        def give(**settings: str) -> GrpcServer:
            log = tmp_path_factory.mktemp("grpc") / "grpc.log"
            return running.enter_context(grpc_server(log, **grpc_environment | settings))

        yield give


@pytest.fixture
def shared(grpc_processes: Shared, engine: Engine, redis_client: redis.Redis) -> Shared:
    """What gives a process with settings of one's own, on empty tables. It is not to be ended, nor spoiled."""
    del engine, redis_client  # asked for to be emptied
    return grpc_processes


@pytest.fixture
def start(
    tmp_path: Path, grpc_environment: dict[str, str], engine: Engine, redis_client: redis.Redis
) -> Iterator[Starter]:
    """A starter of processes with settings of their own, on empty tables: for tests that end them, or stop them."""
    del engine, redis_client  # asked for to be emptied
    with ExitStack() as running:
        started: list[GrpcServer] = []

        def start(**settings: str) -> GrpcServer:
            log = tmp_path / f"grpc-{len(started)}.log"
            started.append(running.enter_context(grpc_server(log, **grpc_environment | settings)))
            return started[-1]

        yield start
