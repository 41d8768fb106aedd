"""What workers count: what their commits have made true, once, and what they had to try in vain."""

import pytest
import redis
from sqlalchemy import Engine

from jobs.connections import connect_worker_redis
from jobs.killers import MAX_LOST
from jobs.relay import Relay, RelayThread
from jobs.rq.backlog import RqBacklog
from jobs.rq.keys import RqKeys
from jobs.settler import Settler
from models.snowflake.ids import Snowflake
from models.snowflake.layout import EPOCH_MS, encode
from observe import metrics
from ops.local.processes import wait_for
from tests.jobs.backlog import accept, backlog, expire_leases, fault_on, make_due, row_of
from tests.jobs.conftest import DELAYS_S, WorkerMaker, drain
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy
from tests.samples import Samples, Series


class Counts:
    """How much everything has grown since the test began: all tests of a process count in the same place."""

    def __init__(self) -> None:
        self._before = self._now()

    def of(self, name: str, **labels: str) -> float:
        return self._now().value(name, **labels) - self._before.value(name, **labels)

    def transfers(self) -> dict[str, float]:
        """What came of transfers, where anything did."""
        outcomes = [outcome for kind, outcome in metrics.transfers if kind == "transfer"]
        grown = {each: self.of("wallet_transfers_total", kind="transfer", outcome=each) for each in outcomes}
        return {outcome: count for outcome, count in grown.items() if count}

    @staticmethod
    def _now() -> Samples:
        # Not from their text: after thousands of tests there are thousands of series of routes that others have called.
        collected = [sample for metric in metrics.registry.collect() for sample in metric.samples]
        return Samples({Series(each.name, frozenset(each.labels.items())): each.value for each in collected})


@pytest.fixture
def counts(books: Engine) -> Counts:
    """Counts from here on."""
    del books  # what filled them is not counted
    return Counts()


def test_a_batch_is_counted_by_what_came_of_each(counts: Counts, books: Engine, settler: Settler) -> None:
    poor = accept(books, 2, first_id=2_000, source=3, destination=4, cents=10**9)
    settler.settle([*accept(books, 3), *poor])
    assert counts.transfers() == {"posted": 3, "rejected": 2}
    assert counts.of("wallet_transfer_settle_seconds_count") == 3


def test_a_job_that_runs_again_is_not_counted_again(counts: Counts, books: Engine, settler: Settler) -> None:
    ids = accept(books, 3)
    for _ in range(3):
        settler.settle(ids)
    assert counts.transfers() == {"posted": 3}
    assert counts.of("wallet_transfer_settle_seconds_count") == 3


def test_settling_takes_from_the_instant_in_the_id_to_now(
    counts: Counts, books: Engine, settler: Settler, snowflake: Snowflake
) -> None:
    now_ms = (snowflake.next_id() >> 22) + EPOCH_MS
    ids = [encode(now_ms - age_ms, 1, 0) for age_ms in (30_000, 5_000, -60_000)]  # the last one's clock is ahead
    for each in ids:
        accept(books, 1, first_id=each)
    settler.settle(ids)
    took = {bound: counts.of("wallet_transfer_settle_seconds_bucket", le=bound) for bound in ("0.005", "10.0", "60.0")}
    assert took == {"0.005": 1, "10.0": 2, "60.0": 3}


def test_attempts_and_what_they_end_in_are_counted(counts: Counts, books: Engine, settler: Settler) -> None:
    (bad,) = accept(books, 1)
    with fault_on(books, [bad]):
        for attempt in range(len(DELAYS_S) + 1):
            assert counts.transfers() == {}
            assert counts.of("wallet_attempts_failed_total") == attempt
            settler.settle([bad])
            make_due(books)
    assert row_of(books, bad).status == "failed"
    assert counts.transfers() == {"failed": 1}
    assert counts.of("wallet_attempts_failed_total") == len(DELAYS_S) + 1


def test_every_batch_is_counted_with_its_size(
    counts: Counts, books: Engine, redis_client: redis.Redis, make_worker: WorkerMaker
) -> None:
    backlog(books, redis_client, 25)
    assert drain(make_worker(batch_size=10)) == 3
    assert counts.of("wallet_batch_size_count") == 3
    assert counts.of("wallet_batch_size_sum") == 25
    assert counts.of("wallet_batch_size_bucket", le="10.0") == 3
    assert counts.of("wallet_batch_size_bucket", le="3.0") == 0
    assert counts.of("wallet_batch_seconds_count") == 3


def test_what_the_relay_puts_back_is_counted(counts: Counts, books: Engine, relay: Relay) -> None:
    accept(books, 5)
    assert relay.run_once() == 5
    assert relay.run_once() == 0
    assert counts.of("wallet_relay_put_back_total") == 5
    assert counts.of("wallet_relay_passes_total", result="ok") == 2


def test_a_transfer_that_kills_its_workers_has_failed(
    counts: Counts, books: Engine, redis_client: redis.Redis, keys: RqKeys, relay: Relay
) -> None:
    backlog(books, redis_client, 1)
    for _ in range(MAX_LOST):
        keys.claim(worker_key="w", worker_name="w", lease="l", limit=1, lease_s=60)
        expire_leases(redis_client)
        relay.run_once()
    assert counts.transfers() == {"failed": 1}


def test_a_relay_without_redis_counts_faults_and_passes_again_when_it_is_back(
    counts: Counts, books: Engine, redis_client: redis.Redis, redis_proxy: TcpProxy
) -> None:
    redis_client.ping()
    client = connect_worker_redis(redis_proxy.url)
    redis_proxy.refuse()

    def count(result: str) -> float:
        return counts.of("wallet_relay_passes_total", result=result)

    with RelayThread(RqBacklog(client, books), books):
        assert wait_for(lambda: count("fault") >= 1, PATIENCE_S)
        assert count("ok") == 0
        redis_proxy.refuse(refusing=False)
        assert wait_for(lambda: count("ok") >= 1, PATIENCE_S)
    client.close()
