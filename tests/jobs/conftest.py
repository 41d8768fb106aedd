"""What the tests of the queue have in common: keys, settlers and workers on real servers."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import pytest
import redis
from sqlalchemy import Engine

import jobs.rq.worker
from jobs.connections import WORKER_ANSWER_TIMEOUT_S, connect_worker_redis
from jobs.relay import Relay
from jobs.retries import RetryPolicy
from jobs.rq.backlog import RqBacklog
from jobs.rq.keys import STARTED, RqKeys
from jobs.rq.worker import BatchWorker
from jobs.settler import Settler
from ops.local.processes import wait_for
from tests.jobs.backlog import are_final, fund, members, queued, rows_of
from tests.jobs.workers import WorkerNursery, WorkerProcess
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S

DELAYS_S = (60.0, 120.0)
# A worker whose lease is as short as this is soon followed by another.
SHORT_LEASE_S = 0.3


class WorkerMaker(Protocol):
    """Makes a worker in this process, on a client of its own or through a proxy."""

    def __call__(self, *, url: str | None = None, engine: Engine | None = None, batch_size: int = 300) -> BatchWorker:
        """Make it, registered."""


@pytest.fixture
def books(engine: Engine) -> Engine:
    """Empty tables, and wallets 1 to 4 with money in them."""
    fund(engine, 1, 2, 3, 4)
    return engine


@pytest.fixture
def keys(redis_client: redis.Redis) -> RqKeys:
    """The steps of a job's life in an empty Redis."""
    return RqKeys(redis_client)


@pytest.fixture
def policy() -> RetryPolicy:
    """Three attempts, a minute and two minutes apart to the second."""
    return RetryPolicy(DELAYS_S, spread=lambda: 0.0)


@pytest.fixture
def settler(books: Engine, policy: RetryPolicy) -> Iterator[Settler]:
    """A settler that has the time for a slow machine, and none for a lock."""
    with bounded_engine(_plain_url(books), lock_ms=200, statement_ms=8_000) as engine:
        yield Settler(engine, policy)


@pytest.fixture
def relay(redis_client: redis.Redis, books: Engine) -> Relay:
    """A relay that looks at the list in every pass."""
    clock = iter(range(0, 10**9, 1_000))
    return Relay(RqBacklog(redis_client, books, clock=lambda: next(clock)), books)


@pytest.fixture
def make_worker(
    redis_client: redis.Redis, redis_url: str, settler: Settler, policy: RetryPolicy
) -> Iterator[WorkerMaker]:
    """A maker of workers that are driven by hand: see :func:`drain`."""
    del redis_client  # asked for to be emptied
    clients: list[redis.Redis] = []

    def make(*, url: str | None = None, engine: Engine | None = None, batch_size: int = 300) -> BatchWorker:
        clients.append(connect_worker_redis(url or redis_url))
        own = settler if engine is None else Settler(engine, policy)
        worker = BatchWorker(clients[-1], own, batch_size=batch_size)
        worker.register_birth()
        return worker

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Leases that are over as soon as their holder is gone."""
    monkeypatch.setattr(jobs.rq.worker, "LEASE_S", SHORT_LEASE_S)
    return SHORT_LEASE_S


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses after faults."""
    monkeypatch.setattr(jobs.rq.worker, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(BatchWorker, "_wait_after", lambda *_: None)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerNursery]:
    """Where worker processes come from."""
    with WorkerNursery(tmp_path_factory.mktemp("workers")) as nursery:
        yield nursery


class WorkerStarter(Protocol):
    """Starts a worker process."""

    def __call__(
        self,
        *strikes: dict[str, Any],
        entry: str = "worker",
        lease_s: float = SHORT_LEASE_S,
        answer_s: float = WORKER_ANSWER_TIMEOUT_S,
        constants: Mapping[str, float] = MappingProxyType({}),
        **settings: str,
    ) -> WorkerProcess:
        """Start it, to be struck at the points given."""


@pytest.fixture
def start_worker(
    nursery: WorkerNursery, books: Engine, redis_client: redis.Redis, service_database_url: str, redis_url: str
) -> Iterator[WorkerStarter]:
    """A starter of worker processes on this test's servers."""
    del books, redis_client  # asked for to be emptied

    def start(
        *strikes: dict[str, Any],
        entry: str = "worker",
        lease_s: float = SHORT_LEASE_S,
        answer_s: float = WORKER_ANSWER_TIMEOUT_S,
        constants: Mapping[str, float] = MappingProxyType({}),
        **settings: str,
    ) -> WorkerProcess:
        environment = {
            "DATABASE_URL": service_database_url,
            "REDIS_URL": redis_url,
            "RETRY_DELAYS": "0,0",
            "LOG_LEVEL": "INFO",
            "BATCH_SIZE": "300",
            "LOCK_TIMEOUT_MS": "2000",
            "STATEMENT_TIMEOUT_MS": "8000",
            "IDLE_IN_TRANSACTION_TIMEOUT_MS": "10000",
            **settings,
        }
        shorter = {"jobs.rq.worker:LEASE_S": lease_s, "jobs.connections:WORKER_ANSWER_TIMEOUT_S": answer_s}
        return nursery.start(entry, environment, *strikes, constants=shorter | dict(constants))

    yield start
    nursery.end_all()


class TakeOver(Protocol):
    """Lets others go on where a worker has left off."""

    def __call__(self, ids: Sequence[int]) -> None:
        """Return when all of these transfers are final, and Redis knows it."""


@pytest.fixture
def take_over(make_worker: WorkerMaker, relay: Relay, redis_client: redis.Redis, books: Engine) -> TakeOver:
    """A relay and a second worker that run until all is final."""

    def take_over(ids: Sequence[int]) -> None:
        worker = make_worker()

        def is_over() -> bool:
            relay.run_once()
            drain(worker)
            return are_final(books, ids) and not members(redis_client, STARTED) and not queued(redis_client)

        assert wait_for(is_over, PATIENCE_S), (rows_of(books, ids), members(redis_client, STARTED))

    return take_over


def drain(worker: BatchWorker) -> int:
    """Let a worker run whatever waits, batch by batch, and return how many batches it were."""
    batches = 0
    while (found := worker.dequeue_job_and_maintain_ttl(None)) is not None:
        worker.execute_job(*found)
        batches += 1
    return batches


def _plain_url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)
