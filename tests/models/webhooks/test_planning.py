"""Deliveries are planned once each, in the order of the feed, by however many plan at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from models.errors import EventNotFound, WebhookNotFound
from models.ledger import events
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from models.webhooks import endpoints, fan_out, history
from models.webhooks.fan_out import AHEAD, plan
from ops.local.processes import wait_for
from tests.models.ledger.ordering import bounded_engine, count_waiting, deposit
from tests.patience import PATIENCE_S


def happen(engine: Engine, snowflake: Snowflake, count: int) -> None:
    orders = Orders(engine, snowflake)
    for _ in range(count):
        orders.execute(deposit(1, 1))
    while events.number(engine):
        pass


def add(engine: Engine, snowflake: Snowflake, **given: object) -> int:
    webhook_id = snowflake.next_id()
    endpoints.add(engine, webhook_id, **({"url": "https://a.test/", "types": ["*"], "user_id": None} | given))  # type: ignore[arg-type]
    return webhook_id


def planned(engine: Engine, webhook_id: int) -> list[int]:
    with engine.connect() as connection:
        query = text("SELECT event_id FROM webhook_deliveries WHERE webhook_id = :id ORDER BY number")
        return list(connection.execute(query, {"id": webhook_id}).scalars())


def test_any_number_of_processes_plan_each_delivery_once(engine: Engine, snowflake: Snowflake) -> None:
    ids = [add(engine, snowflake) for _ in range(3)]
    happen(engine, snowflake, AHEAD + 20)
    stop = threading.Event()

    def end_some() -> None:
        """Deliver, so that more is planned."""
        while not stop.is_set():
            with engine.begin() as connection:
                connection.execute(text("UPDATE webhook_deliveries SET status = 'delivered', ended_at = now()"))

    def plan_all() -> None:
        while plan(engine).is_more or len(planned(engine, ids[0])) < AHEAD + 20:
            pass

    with ThreadPoolExecutor(5) as pool:
        ending = pool.submit(end_some)
        for each in [pool.submit(plan_all) for _ in range(4)]:
            each.result(timeout=60)
        stop.set()
        ending.result()
    for webhook_id in ids:
        assert planned(engine, webhook_id) == list(range(1, AHEAD + 21))


def test_what_has_happened_before_there_was_an_endpoint_it_is_not_told(engine: Engine, snowflake: Snowflake) -> None:
    orders = Orders(engine, snowflake)
    orders.execute(deposit(1, 1))  # and nobody has numbered it
    webhook_id = add(engine, snowflake)
    orders.execute(deposit(1, 1))
    happen(engine, snowflake, 1)
    while plan(engine).is_more:
        pass
    assert planned(engine, webhook_id) == [2, 3]


def test_an_endpoint_waits_for_whoever_is_numbering(engine: Engine, snowflake: Snowflake) -> None:
    orders = Orders(engine, snowflake)
    orders.execute(deposit(1, 1))
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as numbering:
            numbering.execute(text("SELECT FROM event_head FOR UPDATE"))
            adding = pool.submit(add, engine, snowflake)
            assert wait_for(lambda: count_waiting(engine) > 0, PATIENCE_S)
        webhook_id = adding.result(timeout=60)
    happen(engine, snowflake, 1)
    while plan(engine).is_more:
        pass
    assert planned(engine, webhook_id) == [2]


def test_who_wants_little_is_not_behind_for_it(
    engine: Engine, snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "SCANNED", 10)
    none, others = add(engine, snowflake, types=["transfer.failed"]), add(engine, snowflake, user_id=2)
    happen(engine, snowflake, 25)
    while plan(engine).is_more:
        pass
    assert planned(engine, none) == planned(engine, others) == []
    with engine.connect() as connection:
        assert set(connection.execute(text("SELECT upto FROM webhooks")).scalars()) == {25}


def test_nothing_more_is_planned_for_who_has_too_much_pending(
    engine: Engine, snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = add(engine, snowflake)
    happen(engine, snowflake, 10)
    plan(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE webhook_deliveries SET attempts = 1"))
    happen(engine, snowflake, 1)
    monkeypatch.setattr(fan_out, "_LOOK", fan_out._LOOK.bindparams(most=9))
    assert plan(engine) == (0, False)
    monkeypatch.setattr(fan_out, "_LOOK", fan_out._LOOK.bindparams(most=10))
    assert plan(engine) == (1, True)
    assert len(planned(engine, webhook_id)) == 11


def test_the_services_role_can_do_all_of_it(engine: Engine, snowflake: Snowflake, service_database_url: str) -> None:
    happen(engine, snowflake, 1)
    with bounded_engine(service_database_url, pool_size=2) as service:
        webhook_id = add(service, snowflake)
        happen(engine, snowflake, 1)
        assert plan(service).deliveries == 1
        history.replay(service, webhook_id, 1)
        history.replay_since(service, webhook_id, datetime.now(UTC) - timedelta(days=1))
        history.add_test(service, webhook_id, 10**15, body="{}", created_at=datetime.now(UTC))
        endpoints.rotate(service, webhook_id)
        endpoints.enable(service, webhook_id)
        assert len(history.find_page(service, webhook_id, status=None, before=10**18, limit=9).deliveries) == 3
        endpoints.delete(service, webhook_id)


def test_what_is_not_there_is_told(engine: Engine, snowflake: Snowflake) -> None:
    with pytest.raises(WebhookNotFound):
        history.add_test(engine, 1, 1, body="{}", created_at=datetime.now(UTC))
    webhook_id = add(engine, snowflake)
    for event_id in (1, 10**17):
        with pytest.raises(EventNotFound):
            history.replay(engine, webhook_id, event_id)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_where_an_instant_begins_is_found_by_halving(engine: Engine, snowflake: Snowflake, count: int) -> None:
    happen(engine, snowflake, count)
    with engine.begin() as connection:
        aged = "UPDATE event_batches SET created_at = CAST(:first AS timestamptz) + position * interval '1 hour'"
        connection.execute(text(aged), {"first": "2026-01-01T00:00:00Z"})
    begin = datetime(2026, 1, 1, tzinfo=UTC) + events.SLACK
    for number in range(count + 2):
        found = events.find_since(engine, begin + timedelta(hours=number))
        assert found == min(max(number - 1, 0), count)
