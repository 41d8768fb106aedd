"""What is planned goes over Kafka when it is due and not before, and what was called off holds up nothing."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from config import Settings
from jobs.kafka.audit_topics import TopicsCheck
from jobs.kafka.backlog import KafkaBacklog
from jobs.kafka.topics import ALL, REQUESTED, RETRY
from jobs.kafka.way_on import KafkaWayOn
from jobs.relay import Relay
from models.ledger import cancellation
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.books import check_books
from tests.jobs.backlog import are_final, assert_posted_once, due, plan, row_of, rows_of, statuses
from tests.jobs.conftest import WorkerStarter
from tests.jobs.kafka.conftest import Make, Send, count_records
from tests.jobs.kafka.test_consumer import count_unread
from tests.jobs.workers import kills
from tests.kafka_broker import empty_topics
from tests.models.ledger.ordering import come
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("kafka")

SettleAll = Callable[..., None]
HOUR_S = 3_600.0


def test_nothing_is_sent_before_it_is_due_and_then_it_is_once(
    *, books: Engine, kafka_settings: Settings, way_on: KafkaWayOn, kafka_relay: Relay, make: Make,
    settle_all: SettleAll,
) -> None:  # fmt: skip
    ids = plan(books, 1_500, seconds=HOUR_S)
    way_on.show_planned(due(ids[0]), row_of(books, ids[0]).not_before)
    assert kafka_relay.run_once() == 0
    assert count_records(kafka_settings, *ALL) == 0
    come(books, *ids)
    assert kafka_relay.run_once() == len(ids)
    assert kafka_relay.run_once() == 0
    settle_all(ids, make())
    assert count_records(kafka_settings, RETRY) == len(ids)
    assert_posted_once(books, ids)


def test_a_record_that_comes_early_is_forgotten_and_sent_again_when_it_is_due(
    *, books: Engine, kafka_settings: Settings, way_on: KafkaWayOn, send: Send, kafka_relay: Relay, make: Make,
    settle_all: SettleAll,
) -> None:  # fmt: skip
    early = plan(books, 3, seconds=HOUR_S)
    for each in early:
        way_on.put_on(due(each))  # as an older process might
    ids, worker = send(5, first_id=2_000), make()
    settle_all(ids, worker)
    assert wait_for(lambda: not worker.run_once() and not count_unread(kafka_settings, books), PATIENCE_S)
    assert {(row.status, row.attempts) for row in rows_of(books, early).values()} == {("pending", 0)}
    assert kafka_relay.run_once() == 0
    come(books, *early)
    settle_all(early, worker, kafka_relay)
    assert count_records(kafka_settings, RETRY) == len(early)
    assert_posted_once(books, [*ids, *early])


def test_what_was_called_off_is_forgotten_and_holds_up_nobody(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    canceled, *ids = send(10)
    assert cancellation.cancel(books, canceled)
    worker = make()
    settle_all(ids, worker)
    assert wait_for(lambda: not worker.run_once() and not count_unread(kafka_settings, books), PATIENCE_S)
    assert row_of(books, canceled).status == "canceled"
    assert kafka_relay.run_once() == 0
    assert count_records(kafka_settings, REQUESTED, RETRY) == 10
    assert_posted_once(books, ids)


def test_emptied_topics_lose_nothing_that_is_planned(
    books: Engine, kafka_broker: KafkaServer, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    ids = plan(books, 5, seconds=HOUR_S)
    assert kafka_relay.run_once() == 0
    empty_topics(kafka_broker)
    come(books, *ids)
    settle_all(ids, make(), kafka_relay)
    assert_posted_once(books, ids)


def test_the_audit_of_the_topics_misses_nothing_that_is_not_due(books: Engine, kafka_settings: Settings) -> None:
    plan(books, 3, seconds=HOUR_S)
    found = TopicsCheck(books, KafkaBacklog(kafka_settings, books)).run({}, 1_000)
    assert (found.position, found.findings) == (None, ())


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_worker_tries_it_then_and_not_before(
    *, books: Engine, kafka_settings: Settings, start_worker: WorkerStarter, is_killed: bool
) -> None:
    brokers = str(kafka_settings.kafka_brokers)
    ids, others = plan(books, 20, seconds=1.5), plan(books, 1, seconds=HOUR_S, first_id=9_000)
    if is_killed:
        killed = start_worker(kills("jobs.settler:post", "before"), TRANSPORT="kafka", KAFKA_BROKERS=brokers)
        killed.wait_until_killed()
    worker = start_worker(TRANSPORT="kafka", KAFKA_BROKERS=brokers)
    assert wait_for(lambda: are_final(books, ids), PATIENCE_S), worker.log.read_text()
    rows = rows_of(books, ids).values()
    assert {(row.status, row.attempts) for row in rows} == {("posted", 1)}
    assert all(row.completed_at >= row.not_before for row in rows)
    assert statuses(books, others) == {"pending"}
    worker.stop()
    check_books(books)
