"""Three brokers: one of them may die, and nobody is told an error for it."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import Engine

from config import Settings
from jobs.kafka import topics
from jobs.kafka.clients import make_admin, make_consumer
from jobs.kafka.group import find_group
from jobs.kafka.topics import ALL, REQUESTED
from jobs.kafka.watch import TopicWatch
from jobs.kafka.way_on import KafkaWayOn
from jobs.kafka.worker import KafkaWorker
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from observe import metrics
from ops.local.kafka.cluster import KafkaCluster
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, are_final, assert_posted_once, due
from tests.jobs.kafka.conftest import count_records
from tests.kafka_broker import empty_topics
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.xdist_group("kafka-cluster"), pytest.mark.long]


def refused_or_failed() -> float:
    return float(sum(metrics.kafka_records[each]._value.get() for each in ("refused", "failed")))


@pytest.fixture
def cluster_settings(settings: Settings, kafka_cluster: KafkaCluster) -> Settings:
    """Settings with those brokers, on which all topics are new."""
    empty_topics(kafka_cluster)
    given = {"transport": "kafka", "kafka_brokers": kafka_cluster.url, "kafka_partitions": 6}
    mine = Settings.model_validate(settings.model_dump() | given)
    topics.make_topics(make_admin(mine), partitions=6)
    assert count_records(mine, *ALL) == 0
    return mine


@pytest.fixture
def worker(cluster_settings: Settings, books: Engine, policy: RetryPolicy) -> Iterator[KafkaWorker]:
    """A worker that is driven by hand."""
    with bounded_engine(books.url.render_as_string(hide_password=False)) as engine:
        worker = KafkaWorker(
            partial(make_consumer, cluster_settings),
            engine,
            Settler(engine, policy),
            batch_size=50,
            watch=TopicWatch(make_admin(cluster_settings)),
        )
        worker.subscribe()
        yield worker
        worker.leave()


class Pays:
    """Has transfers accepted, sent and settled."""

    def __init__(self, settings: Settings, books: Engine, worker: KafkaWorker) -> None:
        self.way_on = KafkaWayOn(settings)
        self.ids: list[int] = []
        self._books = books
        self._worker = worker

    def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            more = accept(self._books, 5, first_id=10_000 + len(self.ids))
            for each in more:
                self.way_on.put_on(due(each))
            self.ids.extend(more)
            self._worker.run_once()

    def end(self) -> None:
        assert wait_for(lambda: not self._worker.run_once() and are_final(self._books, self.ids), PATIENCE_S)
        self.way_on.close()
        assert_posted_once(self._books, self.ids)


def test_one_of_three_brokers_is_killed_and_nothing_sent_is_lost(
    books: Engine, cluster_settings: Settings, worker: KafkaWorker, kafka_cluster: KafkaCluster
) -> None:
    told = make_admin(cluster_settings).list_topics(REQUESTED, timeout=10)
    assert {len(each.replicas) for each in told.topics[REQUESTED].partitions.values()} == {3}
    before, pays = refused_or_failed(), Pays(cluster_settings, books, worker)
    pays.go_on(5)
    victim = kafka_cluster.servers[0]
    victim.kill()
    try:
        pays.go_on(20)
        pays.end()
    finally:
        victim.start()
    assert refused_or_failed() == before


def test_a_dead_coordinator_is_tried_again_with_pauses(
    books: Engine, cluster_settings: Settings, worker: KafkaWorker, kafka_cluster: KafkaCluster
) -> None:
    """The other brokers go on naming it until they have noticed. Without pauses this process would do nothing else."""
    pays = Pays(cluster_settings, books, worker)
    pays.go_on(5)
    assert wait_for(lambda: not worker.run_once() and are_final(books, pays.ids), PATIENCE_S)
    coordinator = find_group(cluster_settings).coordinator
    (victim,) = [each for each in kafka_cluster.servers if each.node_id == coordinator]
    victim.kill()
    try:
        pays.go_on(1)
        began, worked = time.monotonic(), time.process_time()
        pays.end()
        share = (time.process_time() - worked) / (time.monotonic() - began)
    finally:
        victim.start()
    assert share < 0.15
