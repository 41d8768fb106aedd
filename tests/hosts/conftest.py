"""One service over several hosts, for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faketime import Clock
from tests.hosts.load import Load, load
from tests.hosts.network import Network
from tests.hosts.service import Service


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, ready, and this process outside."""
    with Network.or_skip() as network, Service(network, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture
def service(hosts: Service) -> Iterator[Service]:
    """The service, and this test on its network."""
    with hosts.as_client():
        yield hosts


@pytest.fixture
def under_load(service: Service) -> Iterator[Load]:
    """Clients at work. After the test all hosts are up, and all that the clients were told is true."""
    with load(service) as under_way:
        yield under_way


@pytest.fixture
def clock(hosts: Service, tmp_path: Path) -> Iterator[Clock]:
    """The clock of the second host of each kind. It is right again after the test."""
    clock = hosts.clock or Clock.or_skip(tmp_path / "clock")
    yield clock
    clock.set(0)
