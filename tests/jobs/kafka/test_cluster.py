"""Three brokers: one of them may die, and nobody is told an error for it."""

from functools import partial

import pytest
from sqlalchemy import Engine

from config import Settings
from jobs.kafka import topics
from jobs.kafka.clients import make_admin, make_consumer
from jobs.kafka.topics import ALL, REQUESTED
from jobs.kafka.watch import TopicWatch
from jobs.kafka.way_on import KafkaWayOn
from jobs.kafka.worker import KafkaWorker
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from observe import metrics
from ops.local.kafka.cluster import KafkaCluster
from ops.local.processes import wait_for
from tests.jobs.backlog import PATIENCE_S, accept, are_final, assert_posted_once, due
from tests.jobs.kafka.conftest import count_records
from tests.kafka_broker import empty_topics
from tests.models.ledger.ordering import bounded_engine

pytestmark = [pytest.mark.xdist_group("kafka-cluster"), pytest.mark.long]


def refused_or_failed() -> float:
    return float(sum(metrics.kafka_records[each]._value.get() for each in ("refused", "failed")))


def test_one_of_three_brokers_is_killed_and_nothing_sent_is_lost(
    books: Engine, settings: Settings, policy: RetryPolicy, kafka_cluster: KafkaCluster
) -> None:
    empty_topics(kafka_cluster)
    given = {"transport": "kafka", "kafka_brokers": kafka_cluster.url, "kafka_partitions": 6}
    mine = Settings.model_validate(settings.model_dump() | given)
    admin = make_admin(mine)
    topics.make_topics(admin, partitions=6)
    assert count_records(mine, *ALL) == 0
    copies = {
        len(each.replicas) for each in admin.list_topics(REQUESTED, timeout=10).topics[REQUESTED].partitions.values()
    }
    assert copies == {3}

    way_on, ids, before = KafkaWayOn(mine), list[int](), refused_or_failed()
    with bounded_engine(books.url.render_as_string(hide_password=False)) as engine:
        worker = KafkaWorker(
            partial(make_consumer, mine), engine, Settler(engine, policy), batch_size=50, watch=TopicWatch(admin)
        )
        worker.subscribe()

        def go_on(rounds: int) -> None:
            for _ in range(rounds):
                more = accept(books, 5, first_id=10_000 + len(ids))
                for each in more:
                    way_on.put_on(due(each))
                ids.extend(more)
                worker.run_once()

        go_on(5)
        victim = kafka_cluster.servers[0]
        victim.kill()
        try:
            go_on(20)
            assert wait_for(lambda: not worker.run_once() and are_final(books, ids), PATIENCE_S)
        finally:
            victim.start()
        worker.leave()
    way_on.close()
    assert_posted_once(books, ids)
    assert refused_or_failed() == before
