"""A real broker with fresh topics for each test, and workers and relays on it that are driven by hand."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from sqlalchemy import Engine

from config import Settings
from jobs.kafka import topics
from jobs.kafka.backlog import KafkaBacklog
from jobs.kafka.clients import make_admin, make_consumer
from jobs.kafka.watch import TopicWatch
from jobs.kafka.way_on import KafkaWayOn
from jobs.kafka.worker import KafkaWorker
from jobs.relay import Relay
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from jobs.transport import TransportAway
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, are_final, due, rows_of
from tests.kafka_broker import empty_topics
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S


@pytest.fixture
def kafka_settings(settings: Settings, kafka_broker: KafkaServer) -> Settings:
    """Settings with that broker, on which all topics are new."""
    empty_topics(kafka_broker)
    given = {"transport": "kafka", "kafka_brokers": kafka_broker.url, "kafka_partitions": 4}
    made = Settings.model_validate(settings.model_dump() | given)
    topics.make_topics(make_admin(made), partitions=made.kafka_partitions)
    assert count_records(made, *topics.ALL) == 0  # they have leaders
    return made


@pytest.fixture
def way_on(kafka_settings: Settings) -> Iterator[KafkaWayOn]:
    """The way on of a process that accepts."""
    way_on = KafkaWayOn(kafka_settings)
    yield way_on
    way_on.close()


class Send(Protocol):
    """Accepts transfers, and sends them."""

    def __call__(self, count: int, **accepted: int) -> list[int]:
        """Return their ids."""


@pytest.fixture
def send(books: Engine, way_on: KafkaWayOn) -> Send:
    """What a process of the API does."""

    def send(count: int, **accepted: int) -> list[int]:
        ids = accept(books, count, **accepted)
        for each in ids:
            way_on.put_on(due(each, source=accepted.get("source", 1)))
        return ids

    return send


class Make(Protocol):
    """Makes a worker that is driven by hand."""

    def __call__(self, *, engine: Engine | None = None, batch_size: int = 300, **settings: Any) -> KafkaWorker:
        """Make it, subscribed."""


@pytest.fixture
def make(kafka_settings: Settings, books: Engine, policy: RetryPolicy) -> Iterator[Make]:
    """A maker of workers, which leave the group at the end."""
    made: list[KafkaWorker] = []
    with bounded_engine(books.url.render_as_string(hide_password=False), lock_ms=200, statement_ms=8_000) as bounded:

        def make(*, engine: Engine | None = None, batch_size: int = 300, **settings: Any) -> KafkaWorker:
            own = engine or bounded
            mine = kafka_settings.model_copy(update=settings)
            worker = KafkaWorker(
                partial(make_consumer, mine),
                own,
                Settler(own, policy),
                batch_size=batch_size,
                watch=TopicWatch(make_admin(mine)),
            )
            worker.subscribe()
            made.append(worker)
            return worker

        yield make
        for each in made:
            each.leave()


@pytest.fixture
def kafka_relay(kafka_settings: Settings, books: Engine) -> Relay:
    """A relay that tidies and looks at the topics in every pass."""
    clock = iter(range(0, 10**9, 1_000))
    relay = Relay(KafkaBacklog(kafka_settings, books, clock=lambda: next(clock)), books, clock=lambda: next(clock))

    def has_looked() -> bool:
        try:
            return not relay.run_once()
        except TransportAway:  # the topics have just been made: somebody has yet to learn who leads them
            return False

    assert wait_for(has_looked, PATIENCE_S)
    return relay


@pytest.fixture
def settle_all(books: Engine) -> Callable[..., None]:
    """Let workers, and relays, run until all of some transfers are final."""

    def settle_all(ids: Sequence[int], *running: KafkaWorker | Relay) -> None:
        def is_over() -> bool:
            for each in running:
                each.run_once()
            return are_final(books, ids)

        assert wait_for(is_over, PATIENCE_S), rows_of(books, ids)

    return settle_all


def read_all(settings: Settings, topic: str, count: int) -> list[Message]:
    """Read so many records of a topic, from its beginning, as somebody who is no worker."""
    reader = Consumer({"bootstrap.servers": settings.kafka_brokers, "group.id": "tests", "enable.auto.commit": False})
    number = len(reader.list_topics(topic, timeout=30).topics[topic].partitions)
    reader.assign([TopicPartition(topic, each, 0) for each in range(number)])
    found: list[Message] = []

    def has_all() -> bool:
        found.extend(each for each in reader.consume(100, timeout=0.1) if each.error() is None)
        return len(found) >= count

    assert wait_for(has_all, PATIENCE_S), found
    reader.close()
    return found


def count_records(settings: Settings, *names: str) -> int:
    """How many records were ever written to topics."""
    reader = Consumer({"bootstrap.servers": settings.kafka_brokers, "group.id": "tests"})
    counts: list[int] = []

    def have_answered() -> bool:
        counts.clear()
        try:
            for name in names:
                numbers = reader.list_topics(name, timeout=30).topics[name].partitions
                places = [TopicPartition(name, number) for number in numbers]
                counts.extend(reader.get_watermark_offsets(place, timeout=30)[1] for place in places)
        except KafkaException:  # it has just been made
            return False
        return True

    assert wait_for(have_answered, PATIENCE_S)
    reader.close()
    return sum(counts)
