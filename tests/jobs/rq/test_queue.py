"""The way onto the queue from a request: it never raises, costs a silent Redis one timeout, and loses nothing."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

from jobs.relay import Relay
from jobs.rq.crew import transfers_queue
from jobs.rq.keys import FAILED, NewJob, RqKeys
from jobs.rq.way_on import RqWayOn
from models.redis_line.circuit import Circuit
from models.redis_line.client import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, connect_redis
from models.redis_line.line import Command
from observe import background
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, assert_posted_once, due, hash_of, job_of, members, queued
from tests.jobs.conftest import WorkerMaker, drain
from tests.models.redis_line.test_circuit import Clock
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(redis_client: redis.Redis, redis_proxy: TcpProxy, clock: Clock) -> Iterator[RqWayOn]:
    """A queue behind the proxy, whose circuit goes by a clock that is turned by hand. It is connected."""
    client = connect_redis(redis_proxy.url)
    queue = RqWayOn(client)
    queue._circuit = Circuit(open_s=10.0, clock=clock)
    assert queue._push([NewJob(1, None)], lost=False)
    redis_client.flushdb()
    yield queue
    client.close()


@pytest.fixture
def attempts(queue: RqWayOn, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids that were really sent to Redis."""
    sent: list[int] = []
    ask = queue._line.ask

    def counted(*commands: Command) -> list[Any]:
        sent.extend(int(command[3 + 7 + 11]) for command in commands)  # after the script, its keys, what jobs share
        return ask(*commands)

    monkeypatch.setattr(queue._line, "ask", counted)
    return sent


def test_a_transfer_gets_onto_the_queue_with_its_trace(queue: RqWayOn, redis_client: redis.Redis) -> None:
    assert queue._push([NewJob(7, "00-trace")], lost=False)
    assert queued(redis_client) == ["7"]
    assert job_of(redis_client, 7).meta == {"tp": "00-trace"}


def test_a_transfer_that_is_on_the_queue_already_is_a_success_and_is_there_once(
    queue: RqWayOn, redis_client: redis.Redis
) -> None:
    assert [queue._push([NewJob(7, None)], lost=False) for _ in range(3)] == [True, True, True]
    assert queued(redis_client) == ["7"]


def test_a_redis_that_hangs_costs_one_request_its_timeout_and_not_those_after_it(
    queue: RqWayOn, redis_proxy: TcpProxy, attempts: list[int]
) -> None:
    redis_proxy.hold()
    assert [queue._push([NewJob(number, None)], lost=False) for number in range(1, 20)] == [False] * 19
    assert attempts == [1]


@pytest.mark.usefixtures("redis_client")
def test_a_redis_that_refuses_is_asked_once_in_a_pause(
    queue: RqWayOn, redis_proxy: TcpProxy, attempts: list[int], clock: Clock
) -> None:
    redis_proxy.refuse()
    assert not any(queue._push([NewJob(number, None)], lost=False) for number in (1, 2, 3))
    clock.now_s += 10.0
    assert not any(queue._push([NewJob(number, None)], lost=False) for number in (4, 5, 6))
    assert attempts == [1, 4]


def test_after_the_pause_one_asks_and_its_success_is_everybodys(
    queue: RqWayOn, redis_client: redis.Redis, redis_proxy: TcpProxy, attempts: list[int], clock: Clock
) -> None:
    redis_proxy.refuse()
    assert not queue._push([NewJob(1, None)], lost=False)
    redis_proxy.refuse(refusing=False)
    assert not queue._push([NewJob(2, None)], lost=False)  # nobody knows yet
    clock.now_s += 10.0
    assert [queue._push([NewJob(number, None)], lost=False) for number in (3, 4, 5)] == [True, True, True]
    assert attempts == [1, 3, 4, 5]
    assert queued(redis_client) == ["3", "4", "5"]


def test_what_did_not_get_onto_the_queue_is_found_by_the_relay(
    *,
    books: Engine,
    queue: RqWayOn,
    redis_client: redis.Redis,
    redis_proxy: TcpProxy,
    relay: Relay,
    make_worker: WorkerMaker,
) -> None:
    ids = accept(books, 5)
    redis_proxy.refuse()
    assert not any(queue._push([NewJob(number, None)], lost=False) for number in ids)
    assert queued(redis_client) == []
    relay.run_once()
    drain(make_worker())
    assert_posted_once(books, ids)


def test_an_enqueue_whose_reply_was_lost_is_there_once_however_often_it_is_repeated(
    *,
    books: Engine,
    queue: RqWayOn,
    redis_client: redis.Redis,
    redis_proxy: TcpProxy,
    relay: Relay,
    clock: Clock,
    make_worker: WorkerMaker,
) -> None:
    (number,) = accept(books, 1)
    redis_proxy.lose_reply_to(lambda data: b"EVALSHA" in data)
    assert not queue._push([NewJob(number, None)], lost=False)
    assert redis_proxy.cuts == 1
    assert queued(redis_client) == [str(number)]
    clock.now_s += 10.0
    assert queue._push([NewJob(number, None)], lost=False)
    relay.run_once()
    assert queued(redis_client) == [str(number)]
    drain(make_worker())
    assert_posted_once(books, [number])


def test_an_enqueue_that_hung_and_went_through_later_is_there_once(
    queue: RqWayOn, redis_client: redis.Redis, redis_proxy: TcpProxy, clock: Clock
) -> None:
    redis_proxy.hold()
    assert not queue._push([NewJob(7, None)], lost=False)
    redis_proxy.resume()
    assert wait_for(lambda: queued(redis_client) == ["7"], PATIENCE_S)  # what was on its way arrives
    clock.now_s += 10.0
    assert queue._push([NewJob(7, None)], lost=False)
    assert queued(redis_client) == ["7"]


def test_a_requeued_dead_letter_begins_anew_and_whoever_has_a_job_keeps_it(
    queue: RqWayOn, redis_client: redis.Redis
) -> None:
    keys = RqKeys(redis_client)
    keys.bury(7, generation=1, error="told to")
    assert queue._push([NewJob(8, None)], lost=False)
    assert queue.put_back([due(7), due(8)])
    assert queued(redis_client) == ["8", "7"]
    assert members(redis_client, FAILED) == {}
    assert "dead" not in hash_of(redis_client, 7)
    assert queue.put_back([])


def test_ping_tells_whether_redis_answers(queue: RqWayOn, redis_proxy: TcpProxy) -> None:
    assert queue.ping()
    redis_proxy.refuse()
    assert not queue.ping()
    redis_proxy.refuse(refusing=False)
    assert queue.ping()


def test_a_request_waits_for_redis_a_moment_and_sends_nothing_twice(redis_url: str) -> None:
    with connect_redis(redis_url) as client:
        options = client.connection_pool.connection_kwargs
        assert options["socket_connect_timeout"] == CONNECT_TIMEOUT_S <= 0.5
        assert options["socket_timeout"] == ANSWER_TIMEOUT_S <= 0.5
        assert options["retry"].get_retries() == 0


def test_nothing_on_the_queue_is_ever_unpickled(redis_client: redis.Redis) -> None:
    """Whoever can write to Redis must not thereby run code here."""
    assert transfers_queue(redis_client).serializer is JSONSerializer


def test_what_is_accepted_goes_onto_the_queue_without_anybody_waiting(
    queue: RqWayOn, redis_client: redis.Redis
) -> None:
    for number in range(1, 31):
        queue.put_on(due(number))
    assert wait_for(lambda: queued(redis_client) == [str(number) for number in range(1, 31)], PATIENCE_S)


def test_an_ending_process_first_puts_what_it_has_accepted_on_the_queue(
    queue: RqWayOn, redis_client: redis.Redis
) -> None:
    for number in range(1, 501):
        queue.put_on(due(number))
    queue.close()
    assert len(queued(redis_client)) == 500


def test_while_redis_hangs_no_more_is_kept_in_memory_than_the_bound(
    queue: RqWayOn, redis_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rq.way_on.MOST_ACCEPTED", 5)
    redis_proxy.hold()
    for number in range(1, 1_001):
        queue.put_on(due(number))
    # Beside what the feeder took before it met the silence.
    assert queue._accepted.qsize() <= 5
    redis_proxy.resume()


def test_the_feeder_goes_on_after_whatever_happens_to_it(
    queue: RqWayOn, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "PAUSE_S", 0.0)
    ask = queue._line.ask
    failed = threading.Event()

    def fail_once(*commands: Command) -> list[Any]:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        return ask(*commands)

    monkeypatch.setattr(queue._line, "ask", fail_once)
    queue.put_on(due(1))  # lost to the queue: the relay will find it
    assert failed.wait(PATIENCE_S)
    queue.put_on(due(2))
    assert wait_for(lambda: queued(redis_client) == ["2"], PATIENCE_S)


def test_a_feeder_that_could_not_be_started_is_started_the_next_time(
    queue: RqWayOn, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", none_left)
        queue.put_on(due(1))
    queue.put_on(due(2))
    assert wait_for(lambda: queued(redis_client) == ["1", "2"], PATIENCE_S)
