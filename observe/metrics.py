"""What is measured: every metric of the service by its name, for all rooms to count with.

prometheus-client decides when it is imported how it keeps values: with PROMETHEUS_MULTIPROC_DIR in a file of each
process, which outlives it and which any other process can read; without it in memory, for tests and commands. So that
variable is read here, too, and a wrong one stops the start.

No label holds an id, a path, or anything else that a client chose: their values are few and known beforehand, and all
series but those of requests and actions are there, at 0, from the start. A gauge that any process can read from
PostgreSQL or Redis is not kept but read when it is asked for (:class:`ScrapedGauge`, ``api/views/metrics.py``).
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily

import config
from observe.values import use_files_with_room

VERSION = "0.1.0"
# Where the processes of one machine (or of one container) keep their values; None: each has its own in memory.
FOLDER = config.load_or_exit(config.MetricsSettings).prometheus_multiproc_dir

use_files_with_room()
# Otherwise a second series for each, which only one of the two ways to keep values has.
disable_created_metrics()  # type: ignore[no-untyped-call]
registry = CollectorRegistry()

# From a read out of the cache to a wait for a lock. Each costs a series for every kind of request.
_REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Up to the backlog of a bad hour.
_SETTLE_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0)
_BATCH_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_BOUNDS = (1, 3, 10, 30, 100, 300, 1_000, 2_000)

# A method is the client's own word.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Labels for whatever else a client thinks of.
OTHER_METHOD = "other"
NO_ROUTE = "none"


def _counters(name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
    """Make a counter for each value of its label."""
    counter = Counter(name, text, [label], registry=registry)
    return {value: counter.labels(value) for value in values}


def _histogram(name: str, text: str, bounds: Sequence[float]) -> Histogram:
    return Histogram(name, text, buckets=bounds, registry=registry)


# --- requests

_requests = Histogram(
    "wallet_http_request_duration_seconds",
    "Requests answered, by the URL rule.",
    ["method", "route", "status"],
    buckets=_REQUEST_BOUNDS_S,
    registry=registry,
)
_request: dict[tuple[str, str | None, int], Histogram] = {}


def observe_request(method: str, route: str | None, status: int, seconds: float) -> None:
    """Count a request that was answered.

    Args:
        method: as the client spelled it.
        route: the URL rule, never the path; None when none matched.
        status: of the answer.
        seconds: from its first line to its answer.
    """
    try:
        child = _request[method, route, status]
    except KeyError:
        child = _request_of(method, route, status)
    child.observe(seconds)


def _request_of(method: str, route: str | None, status: int) -> Histogram:
    if method not in METHODS:  # and not kept, for there is no end to them
        return _requests.labels(OTHER_METHOD, route or NO_ROUTE, status)
    child = _request[method, route, status] = _requests.labels(method, route or NO_ROUTE, status)
    return child


# --- gRPC calls

_calls = Histogram(
    "wallet_grpc_call_duration_seconds",
    "gRPC calls ended, by method and code. A watch takes as long as it is watched.",
    ["method", "code"],
    buckets=_REQUEST_BOUNDS_S,
    registry=registry,
)
_call: dict[tuple[str, str], Histogram] = {}


def observe_call(method: str, code: str, seconds: float) -> None:
    """Count a gRPC call that has ended.

    Args:
        method: its name, of those that there are; else :data:`NO_ROUTE`.
        code: gRPC's own word for how it ended, such as ``NOT_FOUND``.
        seconds: from its arrival to its end.
    """
    try:
        child = _call[method, code]
    except KeyError:
        child = _call[method, code] = _calls.labels(method, code)
    child.observe(seconds)


watchers = Gauge(
    "wallet_grpc_watchers",
    "Jobs that are being watched over gRPC.",
    registry=registry,
    multiprocess_mode="livesum",
)
watch_seats = Gauge(
    "wallet_grpc_watch_seats",
    "Jobs that can be watched at a time, of all processes that run.",
    registry=registry,
    multiprocess_mode="livesum",
)

# --- transfers

_transfers = Counter("wallet_transfers", "Transfers by their outcome.", ["kind", "outcome"], registry=registry)
# ``posted``, ``rejected``, ``failed``, ``canceled``: their status now; ``accepted``: recorded for a job; ``refused``:
# never recorded.
_OUTCOMES = [
    *product(("deposit", "withdrawal"), ("posted", "refused")),
    *product(("transfer",), ("posted", "rejected", "failed", "canceled", "accepted", "refused")),
]
transfers = {(kind, outcome): _transfers.labels(kind, outcome) for kind, outcome in _OUTCOMES}
transfer_settle_seconds = _histogram(
    "wallet_transfer_settle_seconds",
    "From accepting a transfer, or from when it is planned for, to posting it by a job.",
    _SETTLE_BOUNDS_S,
)

group_size = _histogram("wallet_group_size", "Orders that were posted or recorded in one transaction.", _BATCH_BOUNDS)

# --- workers

batch_size = _histogram("wallet_batch_size", "Jobs that a worker claimed at once.", _BATCH_BOUNDS)
batch_seconds = _histogram("wallet_batch_seconds", "From a claim to its booking.", _BATCH_BOUNDS_S)
attempts_failed = Counter("wallet_attempts_failed", "Attempts that transfers have spent in vain.", registry=registry)
relay_passes = _counters("wallet_relay_passes", "Passes of the relay.", "result", ("ok", "fault"))
relay_put_back = Counter("wallet_relay_put_back", "Jobs that the relay put back on the queue.", registry=registry)
relay_last_pass = Gauge(
    "wallet_relay_last_pass_timestamp_seconds",
    "When the relay last ended a pass without a fault.",
    registry=registry,
    multiprocess_mode="max",
)

# --- Kafka

kafka_records = _counters(
    "wallet_kafka_records",
    "Records that were sent: arrived, failed after some seconds, or refused for want of room. The relay sees to these.",
    "result",
    ("delivered", "failed", "refused"),
)


def _by_topic(name: str, text: str) -> dict[str, Gauge]:
    """Make a gauge for each topic of work."""
    gauge = Gauge(name, text, ["topic"], registry=registry, multiprocess_mode="livemostrecent")
    return {topic: gauge.labels(topic) for topic in ("wallet.transfers.requested", "wallet.transfers.retry")}


kafka_unread = _by_topic(
    "wallet_kafka_unread", "Records that the workers have not read yet, when the relay last looked."
)
kafka_oldest_unread = _by_topic(
    "wallet_kafka_oldest_unread_seconds", "Since when the first of them is on its way, 0 without one."
)
kafka_unannounced = Gauge(
    "wallet_kafka_unannounced_events",
    "Events that were not announced yet when the relay last ended a pass.",
    registry=registry,
    multiprocess_mode="livemostrecent",
)

# --- webhooks

webhook_attempts = _counters(
    "wallet_webhook_attempts", "Attempts to deliver an event to a webhook.", "result", ("delivered", "failed")
)
webhook_attempt_seconds = _histogram(
    "wallet_webhook_attempt_seconds", "How long attempts took, 15 s at most.", (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0)
)
webhooks_disabled = _counters(
    "wallet_webhooks_disabled",
    "Webhooks that were disabled: by their receivers (410), or since nothing had succeeded for days.",
    "why",
    ("gone", "failing"),
)

# --- the cache

cache_reads = _counters("wallet_cache_reads", "Reads that asked the cache.", "result", ("hit", "miss", "bypassed"))
cache_fills = _counters("wallet_cache_fills", "Values offered to the cache.", "result", ("stored", "refused"))
cache_evictions = _counters(
    "wallet_cache_evictions", "Evictions: done, or kept in PostgreSQL for later.", "result", ("done", "kept")
)
cache_kept_evictions = Gauge(
    "wallet_cache_kept_evictions",
    "Evictions that waited to be done when the relay last looked.",
    registry=registry,
    multiprocess_mode="livemostrecent",
)

# --- what one process at a time knows

# Of these the one that relays tells what it last saw, for all.
_OF_THE_RELAY = (*kafka_unread.values(), *kafka_oldest_unread.values(), kafka_unannounced, cache_kept_evictions)


def leave_to_others() -> None:
    """Tell nothing more of what the relay knows: another process has the turn, and this word would stand for good.

    Its last pass is told by the maximum of all, and stays.
    """
    for gauge in _OF_THE_RELAY:
        # Without a time it is as one that was never set, and no newer than what others say.
        gauge._value.set(0.0, timestamp=0.0)  # noqa: SLF001 - there is no public way to take a word back


# --- refusals

throttled = _counters("wallet_throttled", "Requests answered 429.", "limit", ("user", "authentication", "password"))
# ``requests``, ``calls``: told that it is too busy, untried. ``waiting``: a long poll answered at once, since too many
# waited. ``watching``: a watch that had to end, likewise. ``statements``, ``bulks``: one that was not begun.
shed = _counters(
    "wallet_shed",
    "What was turned away under load.",
    "where",
    ("requests", "calls", "waiting", "watching", "statements", "bulks"),
)

# --- administrators

_actions = Counter("wallet_actions", "What administrators did, by its outcome.", ["what", "outcome"], registry=registry)


def count_action(what: str, outcome: str) -> None:
    """Count an act of an administrator.

    Args:
        what: one of our own words for what was done.
        outcome: ``done``, ``unchanged``, or the code of a problem.
    """
    _actions.labels(what, outcome).inc()


# --- beside requests and jobs

# What runs in threads that nobody waits for (observe/background.py).
TASKS = (
    "queue_feeder", "kafka_deliveries", "cache_pulse", "relay", "audit", "reading", "waiting_room", "metrics_server",
    "provider_keys", "rq_commands", "http_connections", "grpc_calls", "grpc_watches", "webhooks", "webhook_feeder",
)  # fmt: skip
background_faults = _counters(
    "wallet_background_faults", "Faults that nobody foresaw, of what runs beside requests and jobs.", "task", TASKS
)

# --- the way to PostgreSQL

db_pool_waits = Counter("wallet_db_pool_waits", "Times that no pooled connection was free.", registry=registry)
db_lock_timeouts = Counter("wallet_db_lock_timeouts", "Statements that gave up on a lock.", registry=registry)

clock_steps = Counter(
    "wallet_clock_steps", "Times that the clock had gone back and a process took another node id.", registry=registry
)


@dataclass(frozen=True, slots=True)
class ScrapedGauge:
    """A gauge that is read when it is asked for, and is left out when it cannot be read."""

    name: str
    text: str
    labels: tuple[str, ...] = ()

    def of(self, value: float) -> GaugeMetricFamily:
        """Give it its value."""
        return GaugeMetricFamily(self.name, self.text, value=value)

    def by(self, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
        """Give it its values, by its labels'."""
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


up = ScrapedGauge("wallet_up", "Whether it answered just now.", ("dependency",))
build_info = ScrapedGauge("wallet_build_info", "What runs here.", ("version", "python", "schema"))
jobs = ScrapedGauge("wallet_jobs", "RQ's jobs.", ("state",))
redis_memory = ScrapedGauge("wallet_redis_memory_bytes", "What the queue's Redis holds.")
redis_max_memory = ScrapedGauge("wallet_redis_max_memory_bytes", "What it may hold, 0 without a limit.")
pending_transfers = ScrapedGauge(
    "wallet_pending_transfers", "Pending transfers that are not planned for later, counted up to 100000."
)
planned_transfers = ScrapedGauge(
    "wallet_planned_transfers",
    "Transfers that are planned for later, counted up to 100000 with those that are pending.",
)
oldest_pending = ScrapedGauge(
    "wallet_oldest_pending_seconds", "Age of the oldest pending transfer, or since it was to be tried; 0 without one."
)
events_behind = ScrapedGauge("wallet_events_behind", "Events that cannot be read yet, of up to 10000 transactions.")
oldest_event_behind = ScrapedGauge(
    "wallet_oldest_event_behind_seconds", "Age of the oldest event that cannot be read yet, 0 without one."
)
dead_letters = ScrapedGauge("wallet_dead_letters", "Failed transfers, counted up to 100000.")
frozen_wallets = ScrapedGauge("wallet_frozen_wallets", "Wallets with a side that is frozen, counted up to 100000.")
webhooks = ScrapedGauge("wallet_webhooks", "Webhooks that there are.", ("status",))
webhook_deliveries = ScrapedGauge(
    "wallet_webhook_deliveries_pending", "Deliveries that are planned and not over, counted up to 100000."
)
webhook_oldest = ScrapedGauge(
    "wallet_webhook_oldest_undelivered_seconds",
    "Age of the oldest event that an enabled webhook is still to be told of, 0 without one.",
)
db_pool_connections = ScrapedGauge(
    "wallet_db_pool_connections", "Connections that processes have to PostgreSQL.", ("service", "state")
)
db_lock_waits = ScrapedGauge("wallet_db_lock_waits", "Sessions that wait for a lock.")
snowflake_lease = ScrapedGauge(
    "wallet_snowflake_lease_seconds", "Until the first lease of a node id ends. An idle process lets its own run out."
)
snowflake_leases = ScrapedGauge("wallet_snowflake_leases", "Node ids that are leased, of 1024.")
audit_ok = ScrapedGauge("wallet_audit_ok", "Whether the last audit found nothing.")
audit_finished = ScrapedGauge("wallet_audit_finished_timestamp_seconds", "When the last audit ended.")
audit_findings = ScrapedGauge("wallet_audit_findings", "What the last audit found wrong.")


def observe_all(histogram: Histogram, values: Iterable[float]) -> None:
    """Observe many values at the price of a few: a worker settles thousands of transfers a second."""
    seen, counted = sorted(values), 0
    if not seen:
        return
    for bound, bucket in zip(histogram._upper_bounds, histogram._buckets, strict=True):  # noqa: SLF001
        upto = bisect_right(seen, bound)
        if upto > counted:
            bucket.inc(upto - counted)
            counted = upto
    histogram._sum.inc(sum(seen))  # noqa: SLF001 - there is no public way to observe more than one
