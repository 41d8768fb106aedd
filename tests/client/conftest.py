"""The client, on a real server with something between them that causes faults."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis
from sqlalchemy import Engine

from tests.api.server import Gunicorn, gunicorn
from tests.client.stand_in import StandIn
from tests.conftest import ADMIN_PASSWORD
from tests.proxy import CountingProxy, TcpProxy
from wallet_client import AdminClient, Retries, WalletClient

FUNDS = 10_000


class Pauses:
    """Tries in quick succession; how long the pauses would have been."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    def retries(self, **bounds: float) -> Retries:
        """Return bounds on tries whose pauses are written down and not made, and spread as far as they may be."""
        return replace(Retries(sleep=self.slept_s.append, spread=lambda: 1.0), **bounds)  # type: ignore[arg-type]


@pytest.fixture
def pauses() -> Pauses:
    """What the client would have slept."""
    return Pauses()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """What answers in place of the service."""
    with StandIn() as started:
        yield started


@pytest.fixture(scope="session")
def to_postgres(service_database_url: str) -> Iterator[TcpProxy]:
    """What stands between the server and PostgreSQL."""
    with TcpProxy.before(service_database_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, to_postgres: TcpProxy, redis_url: str) -> Iterator[Gunicorn]:
    """One server for all tests here."""
    with gunicorn(
        tmp_path_factory.mktemp("client") / "api.log",
        DATABASE_URL=to_postgres.url,
        REDIS_URL=redis_url,
        ADMIN_PASSWORD=ADMIN_PASSWORD,
        API_PROCESSES="1",
    ) as server:
        yield server


@pytest.fixture
def server(running: Gunicorn, engine: Engine, redis_client: redis.Redis, to_postgres: TcpProxy) -> Gunicorn:
    """The server, with empty tables."""
    del engine, redis_client
    to_postgres.refuse(refusing=False)
    return running


@pytest.fixture
def way(server: Gunicorn) -> Iterator[CountingProxy]:
    """What stands between the client and the server."""
    with CountingProxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture
def connect(way: CountingProxy, pauses: Pauses) -> Iterator[Callable[..., WalletClient]]:
    """Make a user's client; its pauses are not made, unless it is given others."""
    made: list[WalletClient] = []

    def make(user_id: int, **options: object) -> WalletClient:
        options = {"retries": pauses.retries()} | options
        made.append(WalletClient(f"http://127.0.0.1:{way.port}", user_id=user_id, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def wallet(connect: Callable[..., WalletClient]) -> WalletClient:
    """User 1, who has money."""
    return _funded(connect(1))


@pytest.fixture
def payee(connect: Callable[..., WalletClient]) -> WalletClient:
    """User 2, who has money."""
    return _funded(connect(2))


@pytest.fixture
def admin(way: CountingProxy) -> Iterator[AdminClient]:
    """The administrator."""
    with AdminClient(f"http://127.0.0.1:{way.port}", password=ADMIN_PASSWORD) as client:
        yield client


def _funded(client: WalletClient) -> WalletClient:
    assert client.deposit(FUNDS).balance == FUNDS
    return client
