"""What is read from PostgreSQL, Redis and the transport when somebody asks for /metrics.

A scrape must neither hang nor fail, whatever hangs and fails behind it. So each of them is read in a thread of its
own, one reading at a time and at most one in a second, however many ask; and who asks waits a bounded time. What could
not be read by then is left out, and ``wallet_up`` says 0.
"""

import platform
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import redis
import structlog
from prometheus_client import Metric
from sqlalchemy import Engine

from config import Settings
from jobs.transport import WayOn, make_counter
from models import vitals
from models.database.engine import create_bounded_engine
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger.frontier import Frontier
from models.redis_line.client import connect_redis
from models.redis_line.memory import find_memory
from models.schema.revision import NEWEST
from observe import background, metrics

# A reading is good for this long.
FRESH_S = 1.0
# Who asks for metrics waits no longer for all.
PATIENCE_S = 1.0
# Of each statement, in PostgreSQL. A server too slow for that has other worries than to be counted.
STATEMENT_TIMEOUT_MS = 500
# Where the backlog begins is looked for so long in a reading.
SEARCH_S = 0.3
# The kinds of processes that have connections, and those of other names.
SERVICES = ("api", "grpc", "worker", "webhooks")
OTHER_SERVICE = "other"

_log = structlog.get_logger("metrics")

Reading = list[Metric]


class Unreadable(Exception):
    """It does not answer."""


class Reader:
    """The newest reading of one dependency."""

    def __init__(self, read: Callable[[], Reading], *, clock: Callable[[], float] = time.monotonic) -> None:
        """``read`` raises :class:`Unreadable`. Nothing is read yet."""
        self._read = read
        self._clock = clock
        self._changed = threading.Condition()
        self._is_reading = False
        self._latest: Reading | None = None
        self._old_at = clock()

    def begin(self) -> None:
        """Begin to read, unless that is under way, or was done just now."""
        with self._changed:
            if self._is_reading or self._clock() < self._old_at:
                return
            self._is_reading = True
        if background.start("reading", self._run) is None:
            self._end(None)

    def find(self, deadline: float) -> Reading | None:
        """Return the reading as soon as it is there, None if it failed or is not there by the deadline."""
        with self._changed:
            is_there = self._changed.wait_for(lambda: not self._is_reading, max(0.0, deadline - self._clock()))
            return self._latest if is_there else None

    def _run(self) -> None:
        latest: Reading | None = None
        with background.guarded("reading"):
            try:
                latest = self._read()
            except Unreadable as error:
                _log.debug("not read", cause=first_line(error))
        self._end(latest)

    def _end(self, latest: Reading | None) -> None:
        with self._changed:
            self._latest, self._is_reading, self._old_at = latest, False, self._clock() + FRESH_S
            self._changed.notify_all()


class Readings:
    """All of them: a collector of prometheus-client's. Making it connects to nothing."""

    def __init__(self, settings: Settings, way_on: WayOn) -> None:
        engine = create_bounded_engine(
            settings.sqlalchemy_url,
            timeouts_ms=settings.database_timeouts_ms | {"statement_timeout": STATEMENT_TIMEOUT_MS},
            # Its own, so that a service whose connections are all taken can say so.
            pool_size=1,
            application_name=vitals.OBSERVER,
        )
        connection, count = connect_redis(settings.redis_url.get_secret_value()), make_counter(settings)
        frontier = Frontier(engine)
        self._readers = {
            "postgres": Reader(lambda: read_postgres(engine, frontier)),
            "redis": Reader(lambda: read_redis(connection, count)),
        }
        if way_on.dependency not in self._readers:
            self._readers[way_on.dependency] = Reader(lambda: read_transport(way_on))

    def collect(self) -> Iterable[Metric]:
        """Read all at once."""
        deadline = time.monotonic() + PATIENCE_S
        for reader in self._readers.values():
            reader.begin()
        found = {name: reader.find(deadline) for name, reader in self._readers.items()}
        yield metrics.up.by({(name,): reading is not None for name, reading in found.items()})
        yield metrics.build_info.by({(metrics.VERSION, platform.python_version(), NEWEST): 1})
        for reading in found.values():
            yield from reading or ()


def read_postgres(engine: Engine, frontier: Frontier) -> Reading:
    """Read what PostgreSQL knows; what it cannot tell (not migrated yet, too slow) is left out.

    Raises:
        Unreadable: it does not answer.
    """
    try:
        reading = _read_sessions(engine)
        for read in (
            partial(_read_backlog, frontier), _read_events, _read_webhooks, _read_frozen, _read_leases, _read_audit,
        ):  # fmt: skip
            reading += _read_if_possible(read, engine)
    except Unavailable as error:
        raise Unreadable from error
    finally:
        engine.dispose()  # no connection stands about between two scrapes
    return reading


def _read_if_possible(read: Callable[[Engine], Reading], engine: Engine) -> Reading:
    try:
        return read(engine)
    except Unavailable as error:
        _log.warning("not read", cause=first_line(error))
        return []


def read_redis(connection: redis.Redis, count: Callable[[], dict[str, int]]) -> Reading:
    """Read what Redis knows, and what jobs it has.

    Raises:
        Unreadable: it does not answer.
    """
    try:
        counts, memory = count(), find_memory(connection)
    except redis.RedisError as error:
        raise Unreadable from error
    return [
        metrics.jobs.by({(state,): count for state, count in counts.items()}),
        metrics.redis_memory.of(memory.used_bytes),
        metrics.redis_max_memory.of(memory.limit_bytes),
    ]


def read_transport(way_on: WayOn) -> Reading:
    """Read whether it is there, which is all that it is asked here: the relay tells the rest.

    Raises:
        Unreadable: it does not answer.
    """
    if not way_on.ping():
        raise Unreadable
    return []


def _read_sessions(engine: Engine) -> Reading:
    sessions = vitals.find_sessions(engine)
    states = (vitals.IN_USE, vitals.IDLE)
    connections: dict[tuple[str, ...], float] = {
        (service, state): 0 for service in (*SERVICES, OTHER_SERVICE) for state in states
    }
    for (service, state), count in sessions.connections.items():
        connections[service if service in SERVICES else OTHER_SERVICE, state] += count
    return [metrics.db_pool_connections.by(connections), metrics.db_lock_waits.of(sessions.lock_waits)]


def _read_backlog(frontier: Frontier, engine: Engine) -> Reading:
    if (begin := frontier.find_begin(SEARCH_S)) is None:
        return []  # the next scrape goes on where this one had to stop
    backlog = vitals.find_backlog(engine, after=begin)
    return [
        metrics.pending_transfers.of(backlog.pending),
        metrics.planned_transfers.of(backlog.planned),
        metrics.oldest_pending.of(backlog.oldest_pending_s),
        metrics.dead_letters.of(backlog.dead_letters),
    ]


def _read_events(engine: Engine) -> Reading:
    backlog = vitals.find_event_backlog(engine)
    return [metrics.events_behind.of(backlog.events), metrics.oldest_event_behind.of(backlog.oldest_s)]


def _read_frozen(engine: Engine) -> Reading:
    return [metrics.frozen_wallets.of(vitals.find_frozen(engine))]


def _read_webhooks(engine: Engine) -> Reading:
    backlog = vitals.find_webhook_backlog(engine)
    return [
        metrics.webhooks.by({("enabled",): backlog.enabled, ("disabled",): backlog.disabled}),
        metrics.webhook_deliveries.of(backlog.pending),
        metrics.webhook_oldest.of(backlog.oldest_s),
    ]


def _read_leases(engine: Engine) -> Reading:
    leases = vitals.find_leases(engine)
    reading: Reading = [metrics.snowflake_leases.of(leases.held)]
    if leases.first_ends_in_s is not None:
        reading.append(metrics.snowflake_lease.of(leases.first_ends_in_s))
    return reading


def _read_audit(engine: Engine) -> Reading:
    audit = vitals.find_last_audit(engine)
    if audit is None:
        return []
    return [
        metrics.audit_ok.of(audit.findings == 0),
        metrics.audit_finished.of(audit.finished_at.timestamp()),
        metrics.audit_findings.of(audit.findings),
    ]
