"""Deliveries, driven by hand: each event that an endpoint wants arrives at least once, whatever its receiver does."""

import json
import threading
from collections import Counter
from collections.abc import Callable

import orjson
import pytest
import redis
from sqlalchemy import Engine

from jobs.event_json import all_as_json
from jobs.webhooks import sender
from models.errors import Unavailable
from models.ledger import events
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from models.webhooks import deliveries, endpoints, history, tidying
from models.webhooks.deliveries import FAILING_DAYS, MOST_HELD, MOST_LOGGED, Held
from models.webhooks.fan_out import AHEAD, plan
from tests.jobs.webhooks.driving import Driver, Endpoints, Happen, change, rows, webhook
from tests.jobs.webhooks.receivers import Receiver, Reply
from tests.models.ledger.ordering import deposit
from tests.patience import PATIENCE_S

_REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON webhook_deliveries FOR EACH ROW
WHEN (NEW.event_id = {} AND NEW.status = 'delivered') EXECUTE FUNCTION refuse()"""


def test_an_event_arrives_as_it_is_told_to_whoever_follows_the_feed(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    (event_id,) = happen()
    assert driver.run() == 1

    told, _ = events.find_told(engine, after=event_id - 1, limit=1)
    (request,) = receiver.received
    assert request.body == orjson.dumps(next(all_as_json(told)))
    assert json.loads(request.body)["event_id"] == request.headers["webhook-id"] == str(event_id)
    assert request.path == "/hooks?of=mine"
    assert request.headers["content-type"] == "application/json"
    assert rows(engine, "event_id", "status", "attempts", "held_until") == [(event_id, "delivered", 1, None)]


def test_who_is_added_is_told_of_what_happens_from_then_on(
    happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    happen(3)
    add(receiver.url)
    wanted = happen(2)
    driver.run()
    assert sorted(receiver.event_ids) == wanted


def test_nothing_is_planned_before_its_event_has_a_number(
    engine: Engine, snowflake: Snowflake, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    """Which it gets after its commit: tests/models/ledger/test_events.py."""
    add(receiver.url)
    Orders(engine, snowflake).execute(deposit(1, 1))
    assert driver.run() == 0
    events.number(engine)
    assert driver.run() == 1


def test_types_and_users_are_filtered_here(
    happen: Happen, add: Endpoints, make_receiver: Callable[[], Receiver], driver: Driver
) -> None:
    every, others, second, none = (make_receiver() for _ in range(4))
    add(every.url)
    add(others.url, "transfer.rejected", "transfer.failed")
    add(second.url, "transfer.posted", user_id=2)
    add(none.url, user_id=3)
    happen(2, user_id=1)
    of_second = happen(1, user_id=2)
    driver.run()
    assert len(every.received) == 3
    assert second.event_ids == of_second
    assert others.received == none.received == []


def test_a_failure_is_tried_again_until_it_succeeds_under_the_same_id_with_the_same_body(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    receiver.answering(Reply(500, body=b"no\0\xff" + b"x" * 1_000), Reply(302, {"Location": receiver.url}), Reply(200))
    happen()
    assert driver.run() == 3
    assert len({(each.body, each.event_id) for each in receiver.received}) == 1
    ((status, attempts, log),) = rows(engine, "status", "attempts", "log")
    assert (status, attempts) == ("delivered", 3)
    assert [each["http_status"] for each in log] == [500, 302, 200]
    assert log[0]["answer"] == "no\ufffd\ufffd" + "x" * 496  # of 500 bytes
    assert all(each["duration_ms"] >= 0 and each["error"] is None and each["at"].endswith("Z") for each in log)


def test_attempts_run_out(engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver) -> None:
    add(receiver.url)
    receiver.answering(Reply(500))
    happen()
    assert driver.run() == 4  # three delays
    assert rows(engine, "status", "attempts") == [("failed", 4)]


def test_410_disables_at_once_and_nothing_is_lost_by_it(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    receiver.answering(Reply(410))
    first = happen()
    assert driver.run() == 1
    assert webhook(engine, webhook_id).why == "gone"
    rest = happen(AHEAD + 5)
    assert driver.run() == 0
    assert len(rows(engine, "event_id")) == 1  # what happens meanwhile waits in the feed

    receiver.answering(Reply(200))
    assert endpoints.enable(engine, webhook_id).why is None
    driver.run()
    assert Counter(receiver.event_ids) == Counter(first + first + rest)


def test_an_endpoint_is_disabled_after_days_in_which_nothing_succeeded(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    receiver.answering(Reply(500))
    happen()
    driver.round()
    assert webhook(engine, webhook_id).failing_since is not None
    assert webhook(engine, webhook_id).why is None
    change(engine, "UPDATE webhooks SET failing_since = failing_since - :days * interval '1 day'", days=FAILING_DAYS)
    driver.round()
    assert webhook(engine, webhook_id).why == "failing"


def test_a_success_begins_the_days_anew(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    receiver.answering(Reply(500), Reply(200))
    happen()
    driver.run()
    found = webhook(engine, webhook_id)
    assert (found.failing_since, found.failures, found.fresh_at, found.quiet_until) == (None, 0, None, None)


@pytest.mark.parametrize("status", [429, 503])
def test_who_asks_for_time_is_given_it(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver, status: int
) -> None:
    webhook_id = add(receiver.url)
    receiver.answering(Reply(status, {"Retry-After": "3600"}), Reply(200))
    happen()
    assert driver.run() == 1
    happen()
    assert driver.run() == 0  # nor does it get anything else
    ((wait,), _) = rows(engine, "extract(epoch FROM next_attempt_at - now())")
    assert 3_500 < wait <= 3_600
    change(engine, "UPDATE webhooks SET quiet_until = now()")
    change(engine, "UPDATE webhook_deliveries SET next_attempt_at = now()")
    assert driver.run() == 2
    assert webhook(engine, webhook_id).quiet_until is None


def test_one_endpoint_has_no_more_than_its_share_and_one_that_fails_a_single_attempt_at_a_time(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver
) -> None:
    webhook_id = add(receiver.url)
    happen(MOST_HELD + 3)
    plan(engine)
    held = deliveries.hold(engine)
    assert len(held) == MOST_HELD
    assert deliveries.hold(engine) == []
    deliveries.let_go(engine, held)
    change(engine, "UPDATE webhooks SET failing_since = now()")
    assert len(deliveries.hold(engine)) == 1
    change(engine, "UPDATE webhook_deliveries SET held_until = NULL")
    change(engine, "UPDATE webhooks SET fresh_at = now() + interval '1 hour'")
    assert deliveries.hold(engine) == []  # what is new waits
    change(engine, "UPDATE webhook_deliveries SET attempts = 1 WHERE event_id = 2")
    assert deliveries.hold(engine) == [Held(webhook_id, 2, 0)]  # what has failed does not


def test_a_receiver_that_is_down_costs_no_row_for_each_event(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    wanted = happen(2 * AHEAD + 50)
    for _ in range(5):
        plan(engine)
    assert len(rows(engine, "event_id")) == AHEAD
    driver.run()
    assert sorted(receiver.event_ids) == wanted


@pytest.mark.parametrize("how", ["all", "the queue"])
def test_redis_may_be_emptied_at_any_time(
    engine: Engine,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    driver: Driver,
    redis_client: redis.Redis,
    how: str,
) -> None:
    add(receiver.url)
    wanted = happen(3)
    driver.feeder.run_once()
    (redis_client.flushdb if how == "all" else lambda: redis_client.delete("rq:queue:webhooks"))()
    assert driver.queue.take(9, worker_name="driver") == []
    change(engine, "UPDATE webhook_deliveries SET held_until = now() WHERE held_until IS NOT NULL")  # in some seconds
    driver.run()
    assert sorted(receiver.event_ids) == wanted


def test_what_waits_on_the_queue_is_not_put_there_twice(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver, redis_client: redis.Redis
) -> None:
    add(receiver.url)
    happen(3)
    for _ in range(3):
        driver.feeder.run_once()
        change(engine, "UPDATE webhook_deliveries SET held_until = now()")
    assert redis_client.llen("rq:queue:webhooks") == 3


def test_a_job_that_comes_twice_is_sent_once(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    happen()
    plan(engine)
    held = deliveries.hold(engine)
    (claimed,) = driver.sender.claim(held)
    assert driver.sender.claim(held) == []
    driver.sender.send(claimed)
    assert driver.sender.claim(held) == []
    assert len(receiver.received) == 1


def test_who_has_lost_a_delivery_tells_nothing_of_it(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    happen()
    plan(engine)
    (late,) = driver.sender.claim(deliveries.hold(engine))
    change(engine, "UPDATE webhook_deliveries SET held_until = now()")
    (other,) = driver.sender.claim(deliveries.hold(engine))
    receiver.answering(Reply(500), Reply(200))
    driver.sender.send(late)
    assert rows(engine, "status", "attempts") == [("pending", 0)]
    driver.sender.send(other)
    assert rows(engine, "status", "attempts") == [("delivered", 1)]


def test_one_that_cannot_be_written_down_holds_up_no_other(
    engine: Engine,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end at the same moment, and so are written down together, at first."""
    monkeypatch.setattr(sender, "TELL_S", 0.2)
    monkeypatch.setattr(sender, "TELL_AGAIN_S", 0.01)
    add(receiver.url)
    first, *others = happen(4)
    barrier = threading.Barrier(4)

    def answer(_: object) -> Reply:
        barrier.wait(PATIENCE_S)
        return Reply()

    receiver.answer = answer
    change(engine, _REFUSES.format(first))
    try:
        with pytest.raises(Unavailable):
            driver.round()
    finally:
        change(engine, "DROP FUNCTION refuse CASCADE")
    assert sorted(rows(engine, "event_id", "status")) == [(first, "pending"), *((each, "delivered") for each in others)]


def test_events_that_lie_close_together_are_read_together() -> None:
    near, far = sender.MOST_BETWEEN, sender.MOST_BETWEEN + 1
    assert list(sender._stretches([])) == []
    assert list(sender._stretches([5, 5 + near, 5 + near + far, 6 + near + far])) == [
        (5, 5 + near),
        (5 + near + far, 6 + near + far),
    ]


def test_a_replayed_event_is_sent_again_and_one_on_its_way_is_not_sent_twice(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    (event_id,) = happen()
    driver.run()
    for _ in range(2):
        history.replay(engine, webhook_id, event_id)
    assert driver.run() == 1
    history.replay(engine, webhook_id, event_id)
    plan(engine)
    (claimed,) = driver.sender.claim(deliveries.hold(engine))
    history.replay(engine, webhook_id, event_id)
    driver.sender.send(claimed)
    assert driver.run() == 0
    assert receiver.event_ids == [event_id] * 3


def test_a_replay_since_sends_all_from_there_on(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    happen(2)
    change(engine, "UPDATE event_batches SET created_at = created_at - interval '1 hour'")
    webhook_id = add(receiver.url)
    first = happen(3)
    driver.run()
    since = webhook(engine, webhook_id).created_at
    assert history.replay_since(engine, webhook_id, since) == first[0] - 1
    assert history.replay_since(engine, webhook_id, since) == first[0] - 1
    rest = happen(2)
    driver.run()
    assert Counter(receiver.event_ids) == Counter(first * 2 + rest)


def test_the_log_of_a_delivery_is_bounded(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    (event_id,) = happen()
    receiver.answering(Reply(500))
    for _ in range(MOST_LOGGED // 4 + 2):
        driver.run()
        history.replay(engine, webhook_id, event_id)
        change(engine, "UPDATE webhooks SET fresh_at = NULL")
    ((log,),) = rows(engine, "log")
    assert len(log) == MOST_LOGGED


def test_an_event_that_is_no_longer_kept_is_not_tried_for_ever(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    add(receiver.url)
    happen()
    plan(engine)
    change(engine, "DELETE FROM transfers")
    driver.run()
    ((status, log),) = rows(engine, "status", "log")
    assert (status, log[0]["error"]) == ("failed", "the event is no longer kept")
    assert receiver.received == []


def test_what_is_over_is_tidied_away(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    kept, deleted = add(receiver.url), add(receiver.url)
    happen(3)
    driver.run()
    change(engine, "UPDATE webhook_deliveries SET ended_at = now() - interval '31 days' WHERE event_id < 3")
    endpoints.delete(engine, deleted)
    assert webhook(engine, deleted).secret is None
    happen()
    driver.run()
    while tidying.tidy(engine, older_than_days=30, limit=1):
        pass
    assert rows(engine, "webhook_id", "event_id") == [(kept, 3), (kept, 4)]
    assert [each.id for each in endpoints.find_all(engine)] == [kept]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM webhooks").scalar_one() == 1
