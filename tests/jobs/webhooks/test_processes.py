"""Processes that send: killed, stopped, with Redis emptied, beside receivers that hang. Every event arrives."""

import signal
from collections import Counter
from collections.abc import Callable

import pytest
import redis
from rq import SimpleWorker, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

from jobs.rq.webhook_queue import webhooks_queue
from jobs.webhooks import job as stock_job
from models.webhooks.deliveries import MOST_HELD
from models.webhooks.fan_out import AHEAD
from ops.local.processes import wait_for
from tests.jobs.webhooks.driving import Driver, Endpoints, Happen, Senders, change, have_ended, lose_what_is_held, rows
from tests.jobs.webhooks.receivers import Received, Receiver, Reply
from tests.patience import PATIENCE_S


def test_what_is_sent_when_its_sender_is_killed_is_sent_again(
    engine: Engine, start: Senders, happen: Happen, add: Endpoints, receiver: Receiver
) -> None:
    add(receiver.url)
    receiver.answer = receiver.hang
    (event_id,) = happen()
    first = start()
    assert wait_for(lambda: receiver.event_ids == [event_id], PATIENCE_S), first.log.read_text()
    first.send(signal.SIGKILL)
    first.wait_until_killed()
    receiver.answering(Reply(200))
    lose_what_is_held(engine)
    start()
    assert wait_for(have_ended(engine, 1), PATIENCE_S)
    assert receiver.event_ids == [event_id, event_id]
    assert rows(engine, "status", "attempts", "claims") == [("delivered", 1, 2)]


def test_every_event_arrives_whoever_is_killed_meanwhile(
    engine: Engine, start: Senders, happen: Happen, add: Endpoints, receiver: Receiver
) -> None:
    """Through a receiver that fails every other time, too; what arrives more than once has the same id."""
    add(receiver.url)
    seen: Counter[int] = Counter()

    def answer(request: Received) -> Reply:
        seen[request.event_id] += 1
        return Reply(500 if seen[request.event_id] % 2 else 200)

    receiver.answer = answer
    wanted: list[int] = []
    for _ in range(3):
        wanted += happen(15)
        process = start()
        count = len(receiver.received)
        assert wait_for(lambda count=count: len(receiver.received) >= count + 5, PATIENCE_S)  # type: ignore[misc]
        process.send(signal.SIGKILL)
        process.wait_until_killed()
        lose_what_is_held(engine)
        change(engine, "UPDATE webhooks SET fresh_at = NULL")
    start()
    assert wait_for(have_ended(engine, len(wanted)), PATIENCE_S), rows(engine, "event_id", "status", "log")
    assert {each for (each,) in rows(engine, "status")} == {"delivered"}
    assert set(receiver.event_ids) == set(wanted)


def test_a_stop_waits_for_what_is_being_sent(
    engine: Engine, start: Senders, happen: Happen, add: Endpoints, receiver: Receiver
) -> None:
    add(receiver.url)
    receiver.answer = receiver.hang
    happen()
    process = start()
    assert wait_for(lambda: len(receiver.received) == 1, PATIENCE_S)
    process.send(signal.SIGTERM)
    happen(5)
    receiver.over.set()
    assert process.wait() == 0, process.log.read_text()
    assert rows(engine, "status", "attempts")[0] == ("delivered", 1)
    assert "Traceback" not in process.log.read_text()


def test_redis_may_be_emptied_under_it(
    engine: Engine,
    start: Senders,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    redis_client: redis.Redis,
) -> None:
    """Also when what it sends is under way, and the queue with the rest of it."""
    add(receiver.url)
    receiver.answer = receiver.hang
    start()
    wanted = happen(20)
    assert wait_for(lambda: len(receiver.received) == MOST_HELD, PATIENCE_S)
    redis_client.flushall()
    receiver.over.set()
    for _ in range(5):
        wanted += happen(5)
        redis_client.flushall()
    assert wait_for(have_ended(engine, len(wanted)), PATIENCE_S)
    assert set(receiver.event_ids) == set(wanted)


def test_receivers_that_hang_hold_up_nobody_else(
    engine: Engine,
    start: Senders,
    happen: Happen,
    add: Endpoints,
    make_receiver: Callable[[], Receiver],
    receiver: Receiver,
) -> None:
    """Ten hold all that they are given; the eleventh gets more than could be planned for it at once."""
    hanging = make_receiver()
    hanging.answer = hanging.hang
    for _ in range(10):
        add(hanging.url)
    webhook_id = add(receiver.url)
    wanted = happen(AHEAD + 20)
    start()
    assert wait_for(lambda: set(receiver.event_ids) == set(wanted), PATIENCE_S), len(receiver.received)
    assert not hanging.over.is_set()
    assert len(hanging.received) <= 10 * 8
    delivered = [each for each in rows(engine, "webhook_id", "status") if each[0] == webhook_id]
    assert len(delivered) == len(wanted)


def test_rq_knows_the_worker_and_its_jobs(
    engine: Engine,
    start: Senders,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    redis_client: redis.Redis,
) -> None:
    webhook_id = add(receiver.url)
    process = start()
    queue = webhooks_queue(redis_client)
    assert wait_for(lambda: len(Worker.all(queue=queue)) == 1, PATIENCE_S)
    (event_id,) = happen()
    assert wait_for(have_ended(engine, 1), PATIENCE_S)

    def status() -> str:
        job = Job.fetch(f"{webhook_id}-{event_id}-0", connection=redis_client, serializer=JSONSerializer)
        assert job.args == [str(webhook_id), str(event_id), 0]
        return job.get_status()

    assert wait_for(lambda: status() == "finished", PATIENCE_S)
    assert queue.finished_job_registry.get_job_ids(cleanup=False) == [f"{webhook_id}-{event_id}-0"]
    assert queue.started_job_registry.get_job_ids(cleanup=False) == []
    process.stop()
    assert Worker.all(queue=queue) == []


def test_any_worker_of_rqs_can_send(
    engine: Engine,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    driver: Driver,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stock_job, "make_sender_of_this_process", lambda: driver.sender)
    add(receiver.url)
    wanted = happen(2)
    driver.feeder.run_once()
    SimpleWorker([webhooks_queue(redis_client)], connection=redis_client, serializer=JSONSerializer).work(burst=True)
    assert sorted(receiver.event_ids) == wanted
    assert {each for (each,) in rows(engine, "status")} == {"delivered"}


def test_what_is_no_job_of_ours_is_dropped(driver: Driver, redis_client: redis.Redis) -> None:
    redis_client.rpush("rq:queue:webhooks", "anything", b"\xff", "1-2", "9" * 19 + "-1-0", "1-1-" + "9" * 10, "1-2-3")
    assert driver.queue.take(9, worker_name="driver") == [(1, 2, 3)]
    assert driver.sender.claim([*driver.queue.take(9, worker_name="driver")]) == []
