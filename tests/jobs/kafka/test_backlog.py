"""What the relay knows of topics: what has been lost comes back, and an honest backlog is never sent twice."""

import signal
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition
from sqlalchemy import Engine, text

from config import Settings
from jobs.kafka import topics
from jobs.kafka.backlog import KafkaBacklog
from jobs.kafka.clients import make_admin
from jobs.kafka.topics import ALL, REQUESTED, RETRY, key_of, partition_of
from jobs.kafka.way_on import KafkaWayOn
from jobs.relay import Relay
from jobs.transport import TransportAway
from models.ledger import attempts
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, assert_posted_once, due, fund, kill_off, row_of
from tests.jobs.kafka.conftest import Make, Send, count_records
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("kafka")

SettleAll = Callable[..., None]


def age(engine: Engine, ids: list[int], *, seconds: float) -> None:
    """Let transfers have been accepted, and sent, some time ago."""
    earlier = {"s": seconds, "ids": ids}
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET created_at = created_at - :s * interval '1 s' WHERE id = ANY (:ids)"), earlier
        )
        connection.execute(
            text("UPDATE sendings SET sent_at = sent_at - :s * interval '1 s' WHERE transfer_id = ANY (:ids)"), earlier
        )


class Tolerant:
    """A relay as its thread runs it: a pass that a fault ends is followed by another."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def run_once(self) -> int:
        try:
            return self._relay.run_once()
        except TransportAway:
            return 0


def is_there(settings: Settings, count: int, *names: str) -> None:
    assert wait_for(lambda: count_records(settings, *names) == count, PATIENCE_S), count_records(settings, *names)


def test_an_honest_backlog_is_never_sent_twice_however_old(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    ids = send(300)
    is_there(kafka_settings, 300, REQUESTED)
    age(books, ids, seconds=3_600)
    for _ in range(3):
        assert kafka_relay.run_once() == 0
    # Nor when a part of it has been read.
    worker = make(batch_size=100)
    assert wait_for(lambda: worker.run_once() == 100, PATIENCE_S)
    worker.leave()
    for _ in range(3):
        assert kafka_relay.run_once() == 0
    assert count_records(kafka_settings, RETRY) == 0
    settle_all(ids, make())
    assert_posted_once(books, ids)


def test_what_was_lost_is_found_though_an_old_offset_was_the_last_that_the_group_was_told(
    *, monkeypatch: pytest.MonkeyPatch, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay,
    make: Make, settle_all: SettleAll,
) -> None:  # fmt: skip
    """As it is when nobody has coordinated it for a while: what it was told then is tried again, in any order."""
    monkeypatch.setattr("jobs.kafka.worker.TELL_AGAIN_S", 0.5)
    ids, worker = send(20), make()
    settle_all(ids, worker)
    place = TopicPartition(REQUESTED, partition_of(key_of(1), kafka_settings.kafka_partitions), 5)
    worker._consumer.commit(offsets=[place], asynchronous=False)
    lost = accept(books, 3, first_id=5_000)
    age(books, [*ids, *lost], seconds=60)
    assert kafka_relay.run_once() == 0  # it looks as if fifteen waited, and these three behind them
    settle_all(lost, worker, kafka_relay)
    assert_posted_once(books, [*ids, *lost])


def test_what_was_never_sent_is_found_after_the_grace_and_sent_once(
    *, books: Engine, kafka_settings: Settings, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    ids = accept(books, 50)
    assert kafka_relay.run_once() == 0  # it may be on its way
    age(books, ids, seconds=3_600)
    assert kafka_relay.run_once() == 50
    for _ in range(3):
        assert kafka_relay.run_once() == 0
    age(books, ids, seconds=3_600)  # now it is honest backlog of the other topic
    assert kafka_relay.run_once() == 0
    is_there(kafka_settings, 50, RETRY)
    settle_all(ids, make(), kafka_relay)
    assert_posted_once(books, ids)


def test_what_was_lost_among_others_is_found_when_those_after_it_have_been_read(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    before, lost = send(10), accept(books, 5, first_id=2_000)
    age(books, [*before, *lost], seconds=3_600)
    after = send(10, first_id=3_000)
    is_there(kafka_settings, 20, REQUESTED)
    assert kafka_relay.run_once() == 0  # it may be any of those that are unread
    worker = make(batch_size=10)
    assert wait_for(lambda: worker.run_once() == 10, PATIENCE_S)
    worker.leave()
    assert kafka_relay.run_once() == 5
    settle_all([*before, *lost, *after], make())
    assert_posted_once(books, [*before, *lost, *after])


def test_deleted_topics_are_made_anew_and_all_that_was_in_them_is_sent_at_once(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    fund(books, *range(11, 21))
    ids = [each for payer in range(11, 21) for each in send(20, first_id=1_000 * payer, source=payer)]
    is_there(kafka_settings, 200, REQUESTED)
    assert kafka_relay.run_once() == 0
    admin = make_admin(kafka_settings)
    for future in admin.delete_topics([*ALL]).values():
        future.result(10)
    put_back = 0

    def are_sent() -> bool:
        nonlocal put_back
        try:
            put_back += kafka_relay.run_once()
        except TransportAway:  # on their way
            return False
        return put_back == 200

    assert wait_for(are_sent, PATIENCE_S)
    is_there(kafka_settings, 200, RETRY)
    assert topics.find_topics(admin).keys() == set(ALL)
    settle_all(ids, make(), kafka_relay)
    assert_posted_once(books, ids)


def test_topics_that_were_deleted_after_their_broker_had_come_back_are_read_anew(
    *,
    books: Engine,
    kafka_broker: KafkaServer,
    kafka_settings: Settings,
    send: Send,
    kafka_relay: Relay,
    make: Make,
    settle_all: SettleAll,
) -> None:
    """With it their leaders' epochs have grown, and those of new topics begin at the beginning."""
    worker = make()
    first = send(10)
    settle_all(first, worker)
    kafka_broker.send(signal.SIGKILL)
    assert kafka_broker.wait(5)
    kafka_broker.start()
    settle_all(second := send(10, first_id=2_000), worker, Tolerant(kafka_relay))
    admin = make_admin(kafka_settings)  # must outlive what it was asked for
    for future in admin.delete_topics([*ALL]).values():
        future.result(10)
    third = send(10, first_id=3_000)
    settle_all(third, worker, Tolerant(kafka_relay))
    assert_posted_once(books, [*first, *second, *third])


def test_an_emptied_topic_is_refilled(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    ids = send(40)
    is_there(kafka_settings, 40, REQUESTED)
    emptied = [TopicPartition(REQUESTED, number, -1) for number in range(4)]  # up to the end
    admin = make_admin(kafka_settings)  # must outlive what it was asked for
    for future in admin.delete_records(emptied).values():
        future.result(10)
    age(books, ids, seconds=3_600)
    assert kafka_relay.run_once() == 40
    settle_all(ids, make())
    assert_posted_once(books, ids)


def test_a_dead_letter_that_was_brought_back_is_sent_at_once(
    *,
    books: Engine,
    kafka_relay: Relay,
    make: Make,
    settle_all: SettleAll,
    way_on: KafkaWayOn,
) -> None:
    (letter,) = accept(books, 1)
    kill_off(books, [letter])
    assert kafka_relay.run_once() == 0
    with books.begin() as connection:
        reopened = attempts.reopen(connection, {letter: 1})
    assert way_on.put_back(reopened)
    assert kafka_relay.run_once() == 1
    assert kafka_relay.run_once() == 0
    settle_all([letter], make())
    assert row_of(books, letter).status == "posted"


def test_what_is_over_is_no_longer_remembered(
    books: Engine, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    ids = accept(books, 20)
    age(books, ids, seconds=3_600)
    assert kafka_relay.run_once() == 20
    settle_all(ids, make())

    def count() -> int:
        with books.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM sendings")).scalar_one())

    assert count() == 20
    kafka_relay.run_once()
    kafka_relay.run_once()
    assert count() == 0


def test_without_brokers_a_pass_raises_and_what_comes_before_it_is_done(
    books: Engine, kafka_settings: Settings
) -> None:
    away = kafka_settings.model_copy(update={"kafka_brokers": "127.0.0.1:1"})
    with pytest.raises(TransportAway):
        Relay(KafkaBacklog(away, books), books).run_once()


def test_a_way_on_without_brokers_waits_for_nothing_and_loses_nothing(
    *, books: Engine, kafka_settings: Settings, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    away = KafkaWayOn(kafka_settings.model_copy(update={"kafka_brokers": "127.0.0.1:1"}))
    ids = accept(books, 30)
    for each in ids:
        away.put_on(due(each))
    assert not away.ping()
    away.close()
    age(books, ids, seconds=3_600)
    assert kafka_relay.run_once() == 30
    settle_all(ids, make())
    assert_posted_once(books, ids)


def test_a_full_producer_refuses_and_the_relay_sends(
    *, monkeypatch: pytest.MonkeyPatch, books: Engine, kafka_settings: Settings, kafka_relay: Relay
) -> None:
    monkeypatch.setattr("jobs.kafka.clients.MOST_QUEUED", 5)
    away = KafkaWayOn(kafka_settings.model_copy(update={"kafka_brokers": "127.0.0.1:1"}))
    ids = accept(books, 20)
    assert [away._sender.send(REQUESTED, b"1", b"{}") for _ in ids] == [True] * 5 + [False] * 15
    away.close()
    age(books, ids, seconds=3_600)
    assert kafka_relay.run_once() == 20


def test_of_a_topic_that_has_kept_a_part_only_what_it_has_lost_is_sent(
    *, books: Engine, kafka_settings: Settings, send: Send, kafka_relay: Relay, make: Make, settle_all: SettleAll
) -> None:
    """As after its retention: what is next to be read is before its beginning."""
    lost, kept = send(10), send(10, first_id=3_000)
    is_there(kafka_settings, 20, REQUESTED)
    worker = make(batch_size=1)  # there is a place that the group has come to
    assert wait_for(lambda: worker.run_once() == 1, PATIENCE_S)
    worker.leave()
    admin = make_admin(kafka_settings)  # must outlive what it was asked for
    number = topics.partition_of(topics.key_of(1), 4)
    for future in admin.delete_records([TopicPartition(REQUESTED, number, 10)]).values():
        future.result(10)
    age(books, lost, seconds=7_200)
    age(books, kept, seconds=3_600)
    assert kafka_relay.run_once() == 9
    assert kafka_relay.run_once() == 0
    settle_all([*lost, *kept], make())
    assert_posted_once(books, [*lost, *kept])
