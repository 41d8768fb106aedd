"""The relay: whatever the queue has lost comes back, once; what it has not lost is left alone."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from rq.registry import StartedJobRegistry
from sqlalchemy import Connection, Engine, event, text
from structlog.testing import capture_logs

import jobs.relay
from jobs.connections import connect_worker_redis
from jobs.killers import MAX_LOST
from jobs.relay import (
    LONGEST_PAUSE_S,
    PAGE,
    PAGES,
    PAUSE_S,
    TURN_S,
    Relay,
    RelayThread,
    pause_after,
)
from jobs.rq.backlog import LIST_CHECK_S, LIST_CHECK_S_PER_JOB, MAX_MISSING_FROM_LIST, RqBacklog
from jobs.rq.keys import FAILED, FINISHED, QUEUE, QUEUE_NAME, SCHEDULED, STARTED, Claim, NewJob, RqKeys
from models.errors import Unavailable
from models.ledger import attempts
from models.ledger.attempts import Page, Seen
from observe import metrics
from ops.local.processes import wait_for
from tests.books import check_books
from tests.jobs.backlog import (
    accept,
    assert_posted_once,
    backlog,
    due,
    enqueue,
    expire_leases,
    find_turn,
    hash_of,
    job_of,
    kill_off,
    make_due,
    members,
    queued,
    row_of,
    rows_of,
    status_of,
    stock_queue,
    take_turn,
)
from tests.jobs.conftest import WorkerMaker, drain
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy


def take(keys: RqKeys, *, lease: str = "lease", limit: int = 1_000) -> Claim:
    return keys.claim(worker_key="rq:worker:tests", worker_name="tests", lease=lease, limit=limit, lease_s=60.0)


def names(ids: list[int]) -> list[str]:
    return [str(each) for each in ids]


def delay(engine: Engine, transfer_id: int, delay_s: float = 60.0) -> None:
    """Let an attempt of it fail."""
    with engine.begin() as connection:
        attempts.spend(connection, {transfer_id: Seen(0, 1)}, {transfer_id: delay_s}, error="told to")


def test_a_transfer_whose_enqueue_was_lost_comes_back(books: Engine, redis_client: redis.Redis, relay: Relay) -> None:
    ids = accept(books, 3)
    assert relay.run_once() == 3
    assert queued(redis_client) == names(ids)
    assert relay.run_once() == 0
    assert queued(redis_client) == names(ids)


def test_what_comes_back_has_its_trace_and_its_lost_leases(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    (number,) = accept(books, 1)
    with books.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET trace = '00-trace', lost_leases = 3 WHERE id = :id"), {"id": number}
        )
    relay.run_once()
    assert job_of(redis_client, number).meta == {"tp": "00-trace"}
    assert hash_of(redis_client, number)["lost"] == b"3"


def test_an_emptied_redis_gets_2000_pending_transfers_back_each_once(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 2_000)
    take(keys, limit=300)
    redis_client.flushdb()
    passes = 0
    while relay.run_once():
        passes += 1
    assert passes <= 3
    assert sorted(map(int, queued(redis_client))) == ids
    drain(make_worker())
    assert_posted_once(books, ids)


def test_an_expired_lease_comes_back(books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay) -> None:
    ids = backlog(books, redis_client, 3)
    take(keys)
    assert relay.run_once() == 0  # not while it holds
    expire_leases(redis_client)
    assert relay.run_once() == 3
    assert sorted(queued(redis_client)) == names(ids)
    assert {row.lost_leases for row in rows_of(books, ids).values()} == {1}
    assert {row.attempts for row in rows_of(books, ids).values()} == {0}


def test_lost_leases_are_remembered_when_redis_is_emptied_between(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    (number,) = backlog(books, redis_client, 1)
    for lost in range(1, MAX_LOST):
        take(keys)
        expire_leases(redis_client)
        relay.run_once()
        assert row_of(books, number).lost_leases == lost
        redis_client.flushdb()
        relay.run_once()
    take(keys)
    expire_leases(redis_client)
    relay.run_once()
    assert (row_of(books, number).status, row_of(books, number).reason) == ("failed", "worker_lost")


def lose_the_list(client: redis.Redis, keys: RqKeys) -> None:
    del keys
    client.delete(QUEUE)


def lose_the_hash(client: redis.Redis, keys: RqKeys) -> None:
    del keys
    client.delete("rq:job:1000", QUEUE)


def lose_the_lease(client: redis.Redis, keys: RqKeys) -> None:
    take(keys)
    client.delete(STARTED)


def be_called_failed(client: redis.Redis, keys: RqKeys) -> None:
    take(keys)
    expire_leases(client)
    StartedJobRegistry(queue=stock_queue(client)).cleanup()
    assert members(client, FAILED).keys() == {"1000"}


def be_called_finished(client: redis.Redis, keys: RqKeys) -> None:
    """As a stock worker does when the transfer will be tried again."""
    take(keys)
    keys.finish("lease", [1_000])
    assert client.zscore(FINISHED, "1000")


def be_buried_in_an_older_generation(client: redis.Redis, keys: RqKeys) -> None:
    take(keys)
    keys.bury(1_000, generation=1, error="told to", lease="lease")
    assert client.exists("rq:results:1000")


@pytest.mark.parametrize(
    "lose",
    [
        lose_the_list,
        lose_the_hash,
        lose_the_lease,
        be_called_failed,
        be_called_finished,
        be_buried_in_an_older_generation,
    ],
)
def test_what_redis_has_wrong_is_put_right(
    *,
    books: Engine,
    redis_client: redis.Redis,
    keys: RqKeys,
    relay: Relay,
    make_worker: WorkerMaker,
    lose: Callable[[redis.Redis, RqKeys], None],
) -> None:
    ids = backlog(books, redis_client, 1)
    lose(redis_client, keys)
    assert relay.run_once() == 1
    assert queued(redis_client) == names(ids)
    assert (members(redis_client, FAILED), hash_of(redis_client, ids[0]).get("dead")) == ({}, None)
    drain(make_worker())
    assert_posted_once(books, ids)


def test_a_retry_that_is_due_comes_back_and_one_that_is_not_waits(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    later, now = backlog(books, redis_client, 2)
    take(keys)
    for each in (later, now):
        delay(books, each)
        keys.postpone("lease", {each: row_of(books, each).next_attempt_at})
    assert relay.run_once() == 0
    with books.begin() as connection:
        connection.execute(text("UPDATE transfers SET next_attempt_at = now() WHERE id = :id"), {"id": now})
    assert relay.run_once() == 1
    assert queued(redis_client) == names([now])
    assert members(redis_client, SCHEDULED).keys() == {str(later)}
    assert status_of(redis_client, later) == "scheduled"


def test_a_retry_survives_an_emptied_redis_and_still_waits_its_time(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    (number,) = backlog(books, redis_client, 1)
    delay(books, number)
    redis_client.flushdb()
    assert relay.run_once() == 0
    make_due(books)
    assert relay.run_once() == 1


def test_a_transfer_that_was_tried_while_the_relay_looked_still_waits_its_time(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found pending and due; then a worker takes it, fails, and postpones it; then the relay goes on."""
    (number,) = backlog(books, redis_client, 1)
    find_pending = attempts.find_pending

    def find_and_be_overtaken(*args: Any, **named: Any) -> Page:
        found = find_pending(*args, **named)
        take(keys)
        delay(books, number)
        keys.postpone("lease", {number: row_of(books, number).next_attempt_at})
        return found

    monkeypatch.setattr(attempts, "find_pending", find_and_be_overtaken)
    assert relay.run_once() == 0
    assert queued(redis_client) == []


def test_a_transfer_that_was_posted_while_the_relay_looked_is_left_alone(
    books: Engine, redis_client: redis.Redis, relay: Relay, monkeypatch: pytest.MonkeyPatch, make_worker: WorkerMaker
) -> None:
    """It was settled, booked, and its finished job forgotten."""
    ids = backlog(books, redis_client, 3)
    find_pending, worker = attempts.find_pending, make_worker()

    def find_and_be_overtaken(*args: Any, **named: Any) -> Page:
        found = find_pending(*args, **named)
        drain(worker)
        redis_client.flushdb()
        return found

    monkeypatch.setattr(attempts, "find_pending", find_and_be_overtaken)
    assert relay.run_once() == 0
    assert queued(redis_client) == []
    assert_posted_once(books, ids)


def test_a_job_that_was_enqueued_after_the_relay_read_the_list_is_not_enqueued_twice(
    books: Engine, redis_client: redis.Redis, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is queued, and was not in the list when that was read."""
    find_pending = attempts.find_pending
    fresh: list[int] = []

    def enqueue_and_find(*args: Any, **named: Any) -> Page:
        if not fresh:
            fresh.extend(backlog(books, redis_client, 5))
        return find_pending(*args, **named)

    monkeypatch.setattr(attempts, "find_pending", enqueue_and_find)
    assert relay.run_once() == 0
    assert queued(redis_client) == names(fresh)


def test_an_honest_backlog_is_left_alone(books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay) -> None:
    ids = backlog(books, redis_client, 5_000)
    take(keys, limit=300)
    before = queued(redis_client)
    for _ in range(2 * 5_000 // PAGE + 2):  # every page of it, twice
        assert relay.run_once() == 0
    assert queued(redis_client) == before
    assert len(before) == len(ids) - 300


def test_one_that_is_lost_behind_an_honest_backlog_is_found(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    backlog(books, redis_client, 3 * PAGE)
    (lost,) = accept(books, 1, first_id=100_000)
    put_back = [relay.run_once() for _ in range(3 * PAGE // PAGE + 2)]
    assert sum(put_back) == 1
    assert queued(redis_client)[-1] == str(lost)


def test_a_pass_is_bounded(
    books: Engine, redis_client: redis.Redis, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.relay, "PAGE", 10)
    monkeypatch.setattr(jobs.relay, "PAGES", 3)
    ids = accept(books, 100)
    for number in range(1, 4):
        assert relay.run_once() == 30
        assert queued(redis_client) == names(ids[: number * 30])
    assert relay.run_once() == 10
    assert PAGE * PAGES <= 10_000


def test_only_so_many_are_looked_for_in_the_list_in_one_pass(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    """Each of them costs Redis a walk along the whole list."""
    ids = backlog(books, redis_client, MAX_MISSING_FROM_LIST + 50)
    redis_client.delete(QUEUE)
    assert relay.run_once() == MAX_MISSING_FROM_LIST
    assert relay.run_once() == 50
    assert sorted(queued(redis_client)) == sorted(names(ids))


def test_the_longer_the_list_the_less_often_it_is_read(books: Engine, redis_client: redis.Redis) -> None:
    now = [100.0]
    relay = Relay(RqBacklog(redis_client, books, clock=lambda: now[0]), books)
    backlog(books, redis_client, 1_000)
    assert relay.run_once() == 0  # reads the list
    redis_client.ltrim(QUEUE, 1, -1)
    pause_s = LIST_CHECK_S + 1_000 * LIST_CHECK_S_PER_JOB
    now[0] += pause_s - 0.01
    assert relay.run_once() == 0
    now[0] += 0.02
    assert relay.run_once() == 1


def test_with_nothing_to_do_a_pass_costs_a_look_and_writes_nothing(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    statements: list[str] = []

    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(books, "before_cursor_execute", note)
    try:
        assert relay.run_once() == 0
    finally:
        event.remove(books, "before_cursor_execute", note)
    assert len(statements) == 2  # at what is due, and now and then at what is to come
    assert redis_client.dbsize() == 0


def test_two_relays_at_once_do_no_harm(books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker) -> None:
    lost = accept(books, 300)
    leased = backlog(books, redis_client, 300, first_id=5_000)
    take(RqKeys(redis_client))
    expire_leases(redis_client)
    relays = [Relay(RqBacklog(redis_client, books), books) for _ in range(4)]
    start = threading.Barrier(len(relays), timeout=PATIENCE_S)

    def run(relay: Relay) -> int:
        start.wait()
        return relay.run_once() + relay.run_once()

    with ThreadPoolExecutor(len(relays)) as pool:
        assert sum(pool.map(run, relays)) == 600
    assert sorted(map(int, queued(redis_client))) == [*lost, *leased]
    assert {row.lost_leases for row in rows_of(books, leased).values()} == {1}
    drain(make_worker())
    assert_posted_once(books, [*lost, *leased])


def lose_every_lease(client: redis.Redis, keys: RqKeys, relay: Relay) -> None:
    """Let a worker die each time it takes what waits."""
    for number in range(MAX_LOST):
        while take(keys, lease=f"lease-{number}").ids:
            pass
        expire_leases(client)
        relay.run_once()


def test_a_transfer_that_kills_its_workers_becomes_a_dead_letter(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    (killer,) = backlog(books, redis_client, 1)
    lose_every_lease(redis_client, keys, relay)
    row = row_of(books, killer)
    assert (row.status, row.reason, row.attempts) == ("failed", "worker_lost", 0)
    assert members(redis_client, FAILED).keys() == {str(killer)}
    assert (members(redis_client, STARTED), queued(redis_client)) == ({}, [])
    assert hash_of(redis_client, killer)["dead"] == b"1"
    result = job_of(redis_client, killer).latest_result()
    assert result is not None
    assert result.exc_string == "its worker died each time"


def test_a_transfer_that_kills_its_workers_after_the_commit_is_posted_and_not_failed(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay, make_worker: WorkerMaker
) -> None:
    ids = backlog(books, redis_client, 1)
    make_worker()._settler.settle(ids)
    lose_every_lease(redis_client, keys, relay)
    assert_posted_once(books, ids)
    assert status_of(redis_client, ids[0]) == "finished"
    assert (members(redis_client, STARTED), members(redis_client, FAILED)) == ({}, {})


def test_deaths_of_a_former_generation_make_no_dead_letter(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay, make_worker: WorkerMaker
) -> None:
    """Redis goes on counting: it was not told when the transfer failed, and was put back."""
    (number,) = backlog(books, redis_client, 1)
    for lease in range(MAX_LOST - 1):
        take(keys, lease=f"lease-{lease}")
        expire_leases(redis_client)
        relay.run_once()
    take(keys, lease="last")
    kill_off(books, [number])
    with books.begin() as connection:
        assert [due.lost_leases for due in attempts.reopen(connection, {number: 1})] == [0]
    expire_leases(redis_client)
    assert relay.run_once() == 1
    row = row_of(books, number)
    assert (row.status, row.generation, row.lost_leases) == ("pending", 2, 1)
    assert (queued(redis_client), members(redis_client, STARTED)) == ([str(number)], {})
    assert hash_of(redis_client, number)["lost"] == b"1"
    drain(make_worker())
    assert_posted_once(books, [number])


@pytest.mark.parametrize("step", ["fail_lost", "bury"])
def test_a_relay_that_dies_over_a_dead_letter_is_followed_by_one_that_finishes_it(
    *,
    books: Engine,
    redis_client: redis.Redis,
    keys: RqKeys,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    (killer,) = backlog(books, redis_client, 1)

    def die(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("told to")

    with monkeypatch.context() as patches:
        if step == "bury":
            patches.setattr(RqKeys, "bury", die)
        else:
            patches.setattr(attempts, "fail_lost", die)
        with pytest.raises(redis.ConnectionError):
            lose_every_lease(redis_client, keys, relay)
    assert row_of(books, killer).status == ("failed" if step == "bury" else "pending")
    assert relay.run_once() == 0  # not at once
    expire_leases(redis_client)
    relay.run_once()
    assert (row_of(books, killer).status, row_of(books, killer).reason) == ("failed", "worker_lost")
    assert members(redis_client, FAILED).keys() == {str(killer)}
    assert members(redis_client, STARTED) == {}
    check_books(books)


def test_an_expired_lease_on_what_is_no_transfer_does_no_harm(
    books: Engine, redis_client: redis.Redis, relay: Relay
) -> None:
    (number,) = backlog(books, redis_client, 1)
    for each in ("abc", "²", "9" * 40):
        redis_client.hset(f"rq:job:{each}", mapping={"status": "started", "lease": "x", "lost": MAX_LOST})
        redis_client.zadd(STARTED, {f"{each}:x": 1.0})
    redis_client.hset("rq:job:def", mapping={"status": "started", "lease": "x"})
    redis_client.zadd(STARTED, {"def:x": 1.0})
    redis_client.zadd(STARTED, {b"\xff:x": 1.0})
    redis_client.delete(QUEUE)
    assert relay.run_once() == 2  # the transfer, and the one that a worker will find to be none
    assert set(queued(redis_client)) == {str(number), "def"}


def test_without_redis_a_pass_raises(books: Engine, redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    with redis.Redis.from_url(redis_proxy.url, retry=None) as client, pytest.raises(redis.RedisError):
        Relay(RqBacklog(client, books), books).run_once()


def test_without_postgresql_a_pass_raises_and_loses_nothing(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay, postgres_proxy: TcpProxy
) -> None:
    leased = backlog(books, redis_client, 2)
    take(keys)
    expire_leases(redis_client)
    lost = accept(books, 2, first_id=2_000)
    with bounded_engine(postgres_proxy.url) as engine:
        postgres_proxy.refuse()
        cut_off = Relay(RqBacklog(redis_client, engine), engine)
        for _ in range(2):
            with pytest.raises(Unavailable):
                cut_off.run_once()
    assert sorted(queued(redis_client)) == names(leased)
    assert relay.run_once() == 2
    assert sorted(queued(redis_client)) == names([*leased, *lost])


def test_the_names_of_workers_that_were_killed_are_forgotten(
    redis_client: redis.Redis, relay: Relay, make_worker: WorkerMaker
) -> None:
    """As RQ's clean-up would, which is off: there is one more with each worker that cannot sign off."""
    killed, alive = make_worker(), make_worker()
    redis_client.delete(killed.key)  # it has run out
    relay.run_once()
    names = {alive.key.encode()}
    assert redis_client.smembers("rq:workers") == redis_client.smembers(f"rq:workers:{QUEUE_NAME}") == names


@pytest.mark.parametrize(
    ("put_back", "spent_s", "pause_s"),
    [
        (1, 5.0, 0.0),  # there is more to do
        (0, 0.0, PAUSE_S),
        (0, 0.02, PAUSE_S),
        (0, 0.1, 0.9),  # a tenth of the time
        (0, 5.0, LONGEST_PAUSE_S),
    ],
)
def test_a_pass_that_took_long_for_nothing_is_followed_by_a_longer_pause(
    put_back: int, spent_s: float, pause_s: float
) -> None:
    assert pause_after(spent_s, wants_more=put_back > 0) == pytest.approx(pause_s)
    assert LONGEST_PAUSE_S < TURN_S


# --- the thread


class Beats:
    """Counts the passes of relays, and can make them fail."""

    def __init__(self) -> None:
        self.by: list[Relay] = []
        self.failure: BaseException | None = None

    def count(self, relay: Relay) -> int:
        return sum(each is relay for each in self.by)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> Beats:
    """The passes of every relay from now on."""
    beats, run_once = Beats(), Relay.run_once

    def counted(relay: Relay) -> int:
        beats.by.append(relay)
        if beats.failure is not None:
            raise beats.failure
        return run_once(relay)

    monkeypatch.setattr(Relay, "run_once", counted)
    monkeypatch.setattr(jobs.relay, "PAUSE_S", 0.01)
    monkeypatch.setattr(jobs.relay, "TURN_S", 1.0)
    return beats


@contextmanager
def thread_of(url: str, engine: Engine) -> Iterator[RelayThread]:
    with connect_worker_redis(url) as client, RelayThread(RqBacklog(client, engine), engine) as thread:
        yield thread


def wait_until(condition: Callable[[], bool]) -> None:
    assert wait_for(condition, PATIENCE_S)


@pytest.mark.usefixtures("redis_client")
def test_one_relay_works_and_the_other_waits_until_it_stops(
    books: Engine, redis_client: redis.Redis, redis_url: str, beats: Beats
) -> None:
    del redis_client  # asked for to be emptied
    with thread_of(redis_url, books) as second:
        with thread_of(redis_url, books) as first:
            wait_until(lambda: len(beats.by) >= 3)
            active, passive = (first, second) if beats.count(first._relay) else (second, first)
            so_far = beats.count(active._relay)
            wait_until(lambda: beats.count(active._relay) >= so_far + 10)
            assert beats.count(passive._relay) == 0
        wait_until(lambda: beats.count(second._relay) >= 3)


@pytest.mark.usefixtures("redis_client")
def test_a_relay_that_died_is_followed_by_another(books: Engine, redis_url: str, beats: Beats) -> None:
    """It could not give its turn back, which runs out."""
    killed = take_turn(books, seconds=0.3)
    with thread_of(redis_url, books):
        wait_until(lambda: len(beats.by) >= 1)
        assert find_turn(books)[0] != killed


@pytest.mark.usefixtures("redis_client")
def test_a_relay_whose_turn_was_taken_by_another_stands_back(books: Engine, redis_url: str, beats: Beats) -> None:
    with thread_of(redis_url, books):
        wait_until(lambda: len(beats.by) >= 1)
        another = take_turn(books, seconds=0.7)
        wait_until(lambda: find_turn(books)[0] != another)
    assert not find_turn(books)[1]  # given back at the end


@pytest.mark.usefixtures("redis_client")
def test_what_a_relay_last_saw_is_told_no_more_when_another_has_the_turn(
    books: Engine, redis_url: str, beats: Beats
) -> None:
    """On another machine it would stand beside what that one sees, as long as this process lives."""
    told = [metrics.kafka_unannounced, *metrics.kafka_unread.values(), *metrics.kafka_oldest_unread.values()]
    with thread_of(redis_url, books):
        wait_until(lambda: len(beats.by) >= 1)
        for each in told:
            each.set(7)
        so_far = len(beats.by)
        wait_until(lambda: len(beats.by) > so_far + 1)
        assert {each._value.get() for each in told} == {7}
        take_turn(books, seconds=60)
        wait_until(lambda: {each._value.get() for each in told} == {0})


@pytest.mark.usefixtures("redis_client")
def test_the_turn_of_another_is_not_given_back(books: Engine, redis_url: str, beats: Beats) -> None:
    with thread_of(redis_url, books):
        wait_until(lambda: len(beats.by) >= 1)
        another = take_turn(books, seconds=60)
    assert find_turn(books) == (another, True)


@pytest.mark.parametrize(
    "failure", [redis.ConnectionError("told to"), redis.TimeoutError("told to"), Unavailable(), ValueError("told to")]
)
def test_a_relay_survives_a_pass_that_fails(
    *, books: Engine, redis_client: redis.Redis, redis_url: str, beats: Beats, failure: BaseException
) -> None:
    beats.failure = failure
    with thread_of(redis_url, books):
        wait_until(lambda: len(beats.by) >= 3)
        beats.failure = None
        ids = accept(books, 3)
        wait_until(lambda: queued(redis_client) == names(ids))


def test_a_relay_survives_redis_and_postgresql(
    *, books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy, postgres_proxy: TcpProxy, beats: Beats
) -> None:
    with bounded_engine(postgres_proxy.url) as engine, thread_of(redis_proxy.url, engine):
        wait_until(lambda: len(beats.by) >= 2)  # connected to both
        for number, proxy in enumerate((redis_proxy, postgres_proxy)):
            with capture_logs() as logged:
                proxy.refuse()
                wait_until(lambda: sum(line["event"] == "pass broken off" for line in logged) >= 2)
            ids = accept(books, 2, first_id=(number + 1) * 1_000)
            proxy.refuse(refusing=False)
            wait_until(lambda: set(names(ids)) <= set(queued(redis_client)))  # noqa: B023 - asked at once
        redis_client.flushdb()
        wait_until(lambda: len(queued(redis_client)) == 4)


def test_a_requeue_that_redis_did_not_hear_of_is_enqueued_by_the_relay(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    (letter,) = accept(books, 1)
    kill_off(books, [letter])
    keys.bury(letter, generation=1, error="told to")
    assert relay.run_once() == 0  # nobody has requeued it
    with books.begin() as connection:
        assert attempts.reopen(connection, {letter: 1}) == [due(letter)]
    assert relay.run_once() == 1
    assert queued(redis_client) == [str(letter)]
    assert members(redis_client, FAILED) == {}


def test_what_a_request_enqueues_meanwhile_is_not_there_twice(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    """The relay looks between a request's commit and its enqueue: whoever comes second finds the first's job."""
    ids = accept(books, 3)
    relay.run_once()
    assert keys.enqueue([NewJob(each, None) for each in ids]) == 0
    enqueue(redis_client, ids)
    assert queued(redis_client) == names(ids)
