"""What the tests of webhooks have in common: events, endpoints, receivers, and senders that are driven by hand."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from jobs.retries import RetryPolicy
from jobs.rq.webhook_queue import WebhookQueue
from jobs.webhooks.feeder import Feeder
from jobs.webhooks.posting import Poster
from jobs.webhooks.sender import Sender
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from models.webhooks import endpoints
from tests.jobs.conftest import WorkerStarter
from tests.jobs.webhooks.driving import Driver, Endpoints, Happen, Senders, number_all
from tests.jobs.webhooks.receivers import Receiver
from tests.jobs.workers import WorkerProcess
from tests.models.ledger.ordering import deposit
from tests.node import Node, find_node

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="session")
def node() -> Node:
    """Node.js with the standard's own library."""
    return find_node()


@pytest.fixture
def happen(engine: Engine, snowflake: Snowflake) -> Happen:
    """Let deposits happen, and return the ids of their events."""
    orders = Orders(engine, snowflake)

    def happen(count: int = 1, *, user_id: int = 1) -> list[int]:
        before = number_all(engine)
        for _ in range(count):
            orders.execute(deposit(user_id, 1))
        number_all(engine)
        return list(range(before + 1, before + count + 1))

    return happen


@pytest.fixture
def add(engine: Engine, snowflake: Snowflake) -> Endpoints:
    """Make an endpoint, and return its id."""

    def add(url: str, *types: str, user_id: int | None = None) -> int:
        number_all(engine)
        webhook_id = snowflake.next_id()
        endpoints.add(engine, webhook_id, url=url, types=types or ("*",), user_id=user_id)
        return webhook_id

    return add


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    """Start receivers, which end with the test."""
    started: list[Receiver] = []

    def make() -> Receiver:
        started.append(Receiver())
        return started[-1]

    yield make
    for each in started:
        each.close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()


@pytest.fixture
def start(start_worker: WorkerStarter) -> Senders:
    """Start processes that send, and try again at once."""

    def start(
        *strikes: dict[str, Any], constants: Mapping[str, float] = MappingProxyType({}), delays: str = "0"
    ) -> WorkerProcess:
        return start_worker(
            *strikes,
            entry="webhooks",
            constants=constants,
            WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8",
            WEBHOOK_DELAYS=",".join([delays] * 20),
        )

    return start


@pytest.fixture
def driver(engine: Engine, redis_client: redis.Redis) -> Iterator[Driver]:
    """A feeder and a sender, four attempts with nothing between them."""
    queue = WebhookQueue(redis_client)
    with closing(Poster(LOOPBACK)) as poster:
        sender = Sender(engine, poster, RetryPolicy((0.0, 0.0, 0.0)))
        yield Driver(Feeder(engine, queue, days=30), queue, sender)
