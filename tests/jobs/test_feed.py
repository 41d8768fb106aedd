"""The feed: it numbers a bounded amount in each pass of the relay, and forgets what is old now and then."""

import pytest
import redis
from sqlalchemy import Engine, event, text
from structlog.testing import capture_logs

from jobs import feed as module
from jobs.feed import FORGET_S, Feed
from jobs.relay import Relay
from jobs.rq.backlog import RqBacklog
from models.ledger import events
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from tests.models.ledger.ordering import bounded_engine, deposit
from tests.proxy import TcpProxy


@pytest.fixture
def orders(engine: Engine, snowflake: Snowflake) -> Orders:
    return Orders(engine, snowflake)


def happen(orders: Orders, count: int) -> None:
    for _ in range(count):
        orders.execute(deposit(1, 1))


def grow_old(engine: Engine, days: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE event_batches SET created_at = created_at - :days * interval '1 day'"), {"days": days}
        )


def test_a_pass_numbers_all_there_is_up_to_its_bound(
    engine: Engine, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(module, "MOST_TIMES", 3)
    happen(orders, 7)
    feed = Feed(engine, days=1)
    assert [feed.run_once() for _ in range(3)] == [6, 1, 0]
    assert events.find_last(engine) == 7


def test_a_pass_of_the_relay_numbers_events_also_while_redis_is_away(
    engine: Engine, orders: Orders, redis_proxy: TcpProxy
) -> None:
    happen(orders, 1)
    redis_proxy.refuse()
    with redis.Redis.from_url(redis_proxy.url) as client, pytest.raises(redis.RedisError):
        Relay(RqBacklog(client, engine), engine, feed=Feed(engine, days=1)).run_once()
    assert events.find_last(engine) == 1


def test_old_events_are_forgotten_now_and_then_and_at_once_while_there_are_more(
    engine: Engine, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FORGOTTEN", 2)
    now = [0.0]
    feed = Feed(engine, days=2, clock=lambda: now[0])
    happen(orders, 3)
    feed.run_once()
    grow_old(engine, 3)
    feed.run_once()
    assert len(events.find_events(engine, after=0, limit=9)) == 3  # it has looked just now
    now[0] = FORGET_S
    feed.run_once()
    assert [each.id for each in events.find_events(engine, after=0, limit=9)] == [3]
    feed.run_once()
    assert events.find_events(engine, after=0, limit=9) == []


def test_what_has_no_number_is_not_forgotten_however_old(engine: Engine, orders: Orders) -> None:
    happen(orders, 2)
    grow_old(engine, 9)
    assert events.forget(engine, older_than_days=2, limit=9) == 0
    events.number(engine)
    assert events.forget(engine, older_than_days=2, limit=9) == 2


def test_an_idle_pass_writes_nothing(engine: Engine, orders: Orders) -> None:
    happen(orders, 1)
    feed = Feed(engine, days=2)
    feed.run_once()
    said = []

    def note(*arguments: object) -> None:
        said.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    try:
        feed.run_once()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(said) == 1


def test_what_cannot_be_numbered_now_is_told_and_numbered_later(
    engine: Engine, orders: Orders, postgres_proxy: TcpProxy
) -> None:
    happen(orders, 1)
    with bounded_engine(postgres_proxy.url) as cut:
        feed = Feed(cut, days=1)
        postgres_proxy.refuse()
        with capture_logs() as lines:
            assert feed.run_once() == 0
        assert [(line["event"], line["log_level"]) for line in lines] == [("feed stands still", "warning")]
        postgres_proxy.refuse(refusing=False)
        assert feed.run_once() == 1
    assert events.find_last(engine) == 1
