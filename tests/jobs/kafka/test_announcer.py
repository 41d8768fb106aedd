"""Announcements: every event, in the feed's order, with the feed's ids, however often somebody dies over it."""

from collections.abc import Callable

import orjson
import pytest
from sqlalchemy import Engine, text

from config import Settings
from jobs.event_json import as_json
from jobs.feed import Feed
from jobs.kafka.announcer import Announcer
from jobs.kafka.backlog import KafkaBacklog
from jobs.kafka.clients import make_announcing_producer
from jobs.kafka.sending import Sender
from jobs.kafka.topics import DEAD, EVENTS
from jobs.relay import Relay
from models.ledger.attempts import Seen, reopen, spend
from models.ledger.events import find_events
from tests.jobs.backlog import accept
from tests.jobs.kafka.conftest import Make, Send, count_records, read_all

pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture
def telling(kafka_settings: Settings, books: Engine) -> Relay:
    """A relay with a feed."""
    return Relay(KafkaBacklog(kafka_settings, books), books, feed=Feed(books, days=30))


def test_every_outcome_is_announced_as_the_feed_has_it(
    *, books: Engine, kafka_settings: Settings, send: Send, make: Make, settle_all: Callable[..., None], telling: Relay
) -> None:
    settle_all([*send(40), *send(1, first_id=9_000, cents=10**12)], make())  # and one is rejected
    telling.run_once()
    kept = find_events(books, after=0, limit=100)
    assert len(kept) == 4 + 41  # the deposits, too
    told = read_all(kafka_settings, EVENTS, len(kept))
    assert sorted((orjson.loads(each.value() or b"") for each in told), key=lambda each: int(each["event_id"])) == [
        as_json(each) for each in kept
    ]
    assert {each.key() for each in told} == {str(each.transfer.id).encode() for each in kept}
    telling.run_once()
    assert count_records(kafka_settings, EVENTS) == len(kept)  # once


def test_a_dead_letter_is_announced_on_a_topic_of_its_own(
    books: Engine, kafka_settings: Settings, telling: Relay
) -> None:
    (letter,) = accept(books, 1)
    with books.begin() as connection:
        spend(connection, {letter: Seen(0, 1)}, {letter: None}, error="no luck")
    with books.begin() as connection:
        reopen(connection, {letter: 1})
    telling.run_once()
    (dead,) = read_all(kafka_settings, DEAD, 1)
    told = orjson.loads(dead.value() or b"")
    assert (told["type"], told["data"]["status"], told["data"]["job_id"]) == ("transfer.failed", "failed", str(letter))
    types = [orjson.loads(each.value() or b"")["type"] for each in read_all(kafka_settings, EVENTS, 6)]
    assert sorted(types) == ["transfer.failed", *["transfer.posted"] * 4, "transfer.requeued"]


def test_what_has_not_arrived_is_told_again(books: Engine, kafka_settings: Settings) -> None:
    Feed(books, days=30).run_once()
    away = kafka_settings.model_copy(update={"kafka_brokers": "127.0.0.1:1"})
    silent = Announcer(books, Sender(lambda: make_announcing_producer(away), listens=False))
    assert silent.run_once() == 0
    Announcer(books, Sender(lambda: make_announcing_producer(kafka_settings), listens=False)).run_once()
    assert count_records(kafka_settings, EVENTS) == 4
    with books.connect() as connection:
        assert connection.execute(text("SELECT upto FROM announcements")).scalar_one() == 4
