"""The audit of the queue: what stays wrong is named, what the relay brings in order in time is not."""

from collections.abc import Callable

import pytest
import redis
from sqlalchemy import Engine

from jobs.relay import Relay
from jobs.rq import keys as keys_module
from jobs.rq.audit_queue import MAX_LISTED, MAX_SUSPECTS, QueueCheck
from jobs.rq.keys import FAILED, FINISHED, QUEUE, SCHEDULED, STARTED, RqKeys
from models.audit.audit import MAX_IDS, Progress, run_slice
from models.ledger.attempts import Seen, spend
from tests.jobs.backlog import accept, backlog, expire_leases, kill_off, members, queued
from tests.jobs.conftest import WorkerMaker, drain
from tests.models.audit.auditing import begun
from tests.models.ledger.ordering import post_now

Nothing: Callable[[], None] = lambda: None  # noqa: E731 - a word for what happens between two looks


class Audits:
    """Audits of the queue in which no time passes between the two looks, but what the test has happen."""

    def __init__(self, engine: Engine, keys: RqKeys) -> None:
        self.now = 0.0
        self._checks = [QueueCheck(engine, keys, clock=lambda: self.now)]

    def run(self, between: Callable[[], None] = Nothing, *, limit: int = 2_000) -> dict[str, list[str]]:
        """Return what is found broken, by whom."""
        progress, slices = begun("queue"), 0
        while progress.check is not None:
            slices += 1
            assert slices < 1_000
            pause_s = run_slice(self._checks, progress, limit=limit).pause_s
            if pause_s:
                self.now += pause_s
                between()
        self.last: Progress = progress
        return {each.invariant: sorted(each.ids) for each in progress.findings.values()}


@pytest.fixture
def audits(books: Engine, keys: RqKeys) -> Audits:
    return Audits(books, keys)


def names(ids: list[int]) -> list[str]:
    return sorted(map(str, ids))


def claim(keys: RqKeys) -> list[str]:
    return keys.claim(worker_key="rq:worker:x", worker_name="x", lease="lease", limit=1_000, lease_s=60.0).ids


@pytest.mark.parametrize("limit", [1, 2, 2_000])
def test_a_queue_with_all_its_states_passes(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, audits: Audits, limit: int
) -> None:
    """Posted, dead, dead and requeued on rq-dashboard, to be tried again, started, queued."""
    posted, dead, requeued, waits = (accept(books, 2, first_id=1_000 * number) for number in range(1, 5))
    post_now(books, posted)
    with books.begin() as connection:
        spend(connection, {each: Seen(0, 1) for each in waits}, dict.fromkeys(waits, 60.0), error="told to")
    keys.finish("", posted)
    redis_client.zadd(SCHEDULED, dict.fromkeys(names(waits), 9e9))
    kill_off(books, dead + requeued)
    for each in dead + requeued:
        keys.bury(each, generation=1, error="told to")
    backlog(books, redis_client, 2, first_id=5_000)
    claim(keys)
    backlog(books, redis_client, 2, first_id=6_000)
    assert keys.requeue(names(requeued)) == 2
    assert audits.run(limit=limit) == {}
    assert audits.now == 0.0  # nothing was even suspected


@pytest.mark.parametrize("limit", [2, 2_000])
def test_pending_transfers_that_nobody_has_are_named(
    books: Engine, redis_client: redis.Redis, audits: Audits, limit: int
) -> None:
    backlog(books, redis_client, 5)
    lost = accept(books, 3, first_id=5_000)
    assert audits.run(limit=limit) == {"pending_has_job": names(lost)}


def test_what_finds_no_room_on_the_queue_waits_in_postgresql_and_is_not_named(
    books: Engine, redis_client: redis.Redis, audits: Audits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "MOST_WAITING", 10)
    monkeypatch.setattr(keys_module, "FEWEST_WAITING", 10)
    monkeypatch.setattr(keys_module, "RESERVED_WAITING", 5)
    ids = backlog(books, redis_client, 20)
    assert queued(redis_client) == [str(each) for each in ids[:5]]
    assert audits.run() == {}
    redis_client.lpop(QUEUE, 5)
    assert audits.run() == {"pending_has_job": names(ids)}  # with room it would have to be there


def test_what_says_it_is_queued_and_stands_in_no_list_is_named(
    books: Engine, redis_client: redis.Redis, audits: Audits
) -> None:
    ids = backlog(books, redis_client, 3)
    redis_client.lrem(QUEUE, 1, str(ids[1]))
    assert audits.run() == {"pending_has_job": [str(ids[1])]}


def test_what_says_it_is_started_and_has_no_lease_is_named(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, audits: Audits
) -> None:
    ids = backlog(books, redis_client, 3)
    claim(keys)
    redis_client.zrem(STARTED, f"{ids[0]}:lease")
    assert audits.run() == {"pending_has_job": [str(ids[0])]}


def test_what_waits_for_its_next_attempt_needs_no_job(books: Engine, audits: Audits) -> None:
    (number,) = accept(books, 1)
    with books.begin() as connection:
        spend(connection, {number: Seen(0, 1)}, {number: 60.0}, error="told to")
    assert audits.run() == {}


@pytest.mark.parametrize("where", [QUEUE, SCHEDULED, FAILED])
@pytest.mark.parametrize("limit", [1, 2_000])
def test_jobs_of_transfers_that_are_over_or_never_were_are_named(
    *, books: Engine, redis_client: redis.Redis, audits: Audits, where: str, limit: int
) -> None:
    posted = accept(books, 2)
    post_now(books, posted)
    wrong = [str(posted[0]), "77", "abc", "9" * 40]
    for each in wrong:
        if where == QUEUE:
            redis_client.rpush(QUEUE, each)
        else:
            redis_client.zadd(where, {each: 9e9})
    assert audits.run(limit=limit) == {"job_has_open_transfer": sorted(wrong)}


def test_a_dead_letter_shown_as_scheduled_is_named(books: Engine, redis_client: redis.Redis, audits: Audits) -> None:
    ids = accept(books, 1)
    kill_off(books, ids)
    redis_client.zadd(SCHEDULED, {str(ids[0]): 9e9})
    assert audits.run() == {"job_has_open_transfer": names(ids)}


def test_a_lease_that_ran_out_and_was_not_taken_back_is_named(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, audits: Audits
) -> None:
    ids = backlog(books, redis_client, 2)
    claim(keys)
    assert audits.run() == {}
    expire_leases(redis_client)
    assert audits.run() == {"lease_is_taken_back": names(ids)}


def test_what_the_relay_and_a_worker_bring_in_order_between_the_looks_is_no_finding(
    *, books: Engine, redis_client: redis.Redis, keys: RqKeys, audits: Audits, relay: Relay, make_worker: WorkerMaker
) -> None:
    """Never enqueued; fallen out of the list; left by a worker that died before, and after, it posted."""
    accept(books, 3)
    backlog(books, redis_client, 3, first_id=2_000)
    redis_client.delete(QUEUE)
    ids = backlog(books, redis_client, 4, first_id=3_000)
    claim(keys)
    expire_leases(redis_client)
    post_now(books, ids[:2])
    backlog(books, redis_client, 2, first_id=4_000)
    post_now(books, [4_000])
    worker, rounds = make_worker(), 0

    def all_is_brought_in_order() -> None:
        nonlocal rounds
        rounds += 1
        relay.run_once()
        drain(worker)

    assert audits.run(all_is_brought_in_order) == {}
    assert rounds == 1
    assert queued(redis_client) == []
    assert members(redis_client, STARTED) == {}


def test_what_was_settled_between_the_looks_is_no_finding(books: Engine, audits: Audits) -> None:
    lost = accept(books, 3)

    def settle() -> None:
        post_now(books, lost)

    assert audits.run(settle) == {}


def test_a_healthy_queue_needs_no_second_look(books: Engine, redis_client: redis.Redis, audits: Audits) -> None:
    backlog(books, redis_client, 5)
    assert audits.run() == {}
    assert audits.now == 0.0


def test_the_second_look_comes_later_when_much_is_to_be_brought_in_order(
    books: Engine, redis_client: redis.Redis, audits: Audits
) -> None:
    accept(books, 1, first_id=90_000)
    audits.run()
    first = audits.now
    backlog(books, redis_client, 3_000)
    audits.run()
    assert audits.now - first > first


def test_many_suspects_are_looked_at_no_more_than_a_few(books: Engine, audits: Audits) -> None:
    accept(books, 300)
    assert len(audits.run()["pending_has_job"]) == MAX_IDS
    assert audits.last.findings["pending_has_job"].count == MAX_SUSPECTS


def test_a_very_long_list_is_left_to_the_relay(books: Engine, redis_client: redis.Redis, audits: Audits) -> None:
    (number,) = backlog(books, redis_client, 1)
    redis_client.delete(QUEUE)
    accept(books, 1, first_id=5_000)
    assert audits.run() == {"pending_has_job": names([number, 5_000])}
    with redis_client.pipeline() as pipeline:
        pipeline.rpush(QUEUE, *range(10**9, 10**9 + MAX_LISTED + 1))
        pipeline.execute()
    assert audits.run()["pending_has_job"] == ["5000"]


def test_an_audit_changes_nothing_in_redis(
    books: Engine, redis_client: redis.Redis, keys: RqKeys, audits: Audits
) -> None:
    """RQ's own counting of a registry would clean it up."""
    backlog(books, redis_client, 3)
    claim(keys)
    expire_leases(redis_client)
    redis_client.zadd(FINISHED, {"1": 1.0})
    redis_client.zadd(FAILED, {"2": 1.0})
    before = snapshot(redis_client)
    audits.run()
    assert snapshot(redis_client) == before


def snapshot(client: redis.Redis) -> dict[bytes, object]:
    raw: redis.Redis = client
    return {key: raw.dump(key) for key in raw.scan_iter()}
