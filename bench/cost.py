"""What one transfer costs: processors by part, bytes of write-ahead log and on disk, commands and memory of Redis.

Each way is measured by itself, on books that are laid out anew: windows of requests one after the other, from when
nothing is pending until nothing is. What is written to the log and to disk does not depend on what else the machine
does, and what processors spend hardly.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from sqlalchemy import text

from bench import asks, backlog
from bench.asks import Kind
from bench.backlog import Spread
from bench.crew import at_work
from bench.edge import WARM_UP_S, WORKERS, asker
from bench.figures import BenchError, Figure, Plan, Values
from bench.flood import FloodError, flood
from bench.site import SERVICE, Site
from bench.windows import Windows, spent_us
from jobs import transport
from ops.local.kafka.java import find_java, find_maven
from ops.local.kafka.properties import LOG_FOLDER
from ops.local.kafka.runtime import find_runtime
from ops.local.kafka.server import KafkaServer
from ops.local.processes import StackError

CONNECTIONS = 16
# The ways that money moves. Another transport of v2 is another row.
KAFKA = "v2_kafka"
WAYS = {
    "v2": (Kind.LATER, "v2 through RQ"),
    KAFKA: (Kind.LATER, "v2 through Kafka"),
    "v1": (Kind.NOW, "v1"),
    "deposit": (Kind.DEPOSIT, "deposit"),
}
# Whose processors are counted.
PARTS = {"api": "API", "workers": "workers", "postgres": "PostgreSQL", "valkey": "Redis", "kafka": "broker"}
METERS = {
    "wal": ("write-ahead log", "B"),
    "disk": ("tables and indexes", "B"),
    "topics": ("topics, on the broker's disk", "B"),
    "commands": ("Redis, commands and those of scripts", ""),
}
# Of what has to do with Kafka alone.
OF_KAFKA = {"kafka", "topics"}
# Jobs whose memory is looked at while they wait.
WAITING = 5_000
_LOG = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8")
_SIZES = text("SELECT sum(pg_total_relation_size(name))::float8 FROM unnest(ARRAY['transfers', 'entries']) AS name")


class _Read(NamedTuple):
    """Bytes that were logged, commands that were executed, and bytes on topics, since the servers were made."""

    log: float
    commands: float
    topics: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Of each way by which a transfer goes; memory of a job that waits."""

    name: str = "cost"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Microseconds, bytes, commands."""
        spent = (
            Figure(key=f"cost_{way}_{part}", label=f"{WAYS[way][1]}: CPU, {PARTS[part]}", unit="µs")
            for way in ways()
            for part in of_way(way, PARTS)
        )
        metered = (
            Figure(key=f"cost_{way}_{meter}", label=f"{WAYS[way][1]}: {METERS[meter][0]}", unit=METERS[meter][1])
            for way in ways()
            for meter in of_way(way, METERS)
        )
        memory = Figure(key="cost_v2_waiting", label="v2 through RQ: Redis's memory while it waits", unit="B")
        return (*spent, *metered, memory)

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for each for as long as all windows of a kind last in other measures."""
        found = {"cost_v2_waiting": _waiting_bytes(site, min(plan.jobs, WAITING))}
        for way in ways():
            costs = _take(site, way, plan.window_s * plan.windows)
            found |= {f"cost_{way}_{what}": value for what, value in costs.items()}
        if (objection := _objection_to_kafka()) is not None:
            print(f"cost: without {WAYS[KAFKA][1]}: {objection}", flush=True)
        return found


def ways() -> list[str]:
    """Return those that can be measured here."""
    return [way for way in WAYS if way != KAFKA or _objection_to_kafka() is None]


def of_way(way: str, keys: Iterable[str]) -> list[str]:
    """Return those of some parts or meters that a way has."""
    return [key for key in keys if way == KAFKA or key not in OF_KAFKA]


@cache
def _objection_to_kafka() -> str | None:
    try:
        find_java()
        if not find_runtime().jars.is_dir():
            find_maven()
    except StackError as error:
        return str(error)
    return None


def _take(site: Site, way: str, seconds: float) -> Mapping[str, float]:
    kind, _ = WAYS[way]
    asks.lay_out(site)
    before = _size(site)
    with ExitStack() as stack:
        kafka = stack.enter_context(site.kafka()) if way == KAFKA else None
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        count = partial(transport.count_workers, site.settings()) if kafka else None
        stack.enter_context(at_work(site.redis, workers, count=count))
        api = stack.enter_context(site.api())
        windows = Windows(site, workers, {"api": [api.process]})
        if kafka is not None:
            windows.callees = {"api": [api.process], "kafka": [kafka]}
            windows.until_told = partial(backlog.wait_until_announced, site.engines[SERVICE])
        send = partial(flood, api.port, asker(kind), connections=CONNECTIONS, status=kind.status)
        try:
            warm = windows.fill(kind, partial(send, seconds=WARM_UP_S))
            began = _read(site, kafka)
            window = windows.fill(kind, partial(send, seconds=seconds))
            ended = _read(site, kafka)
        except FloodError as error:
            raise BenchError(str(error)) from error
    count_of_all = warm.answers + window.answers
    is_deposit = kind is Kind.DEPOSIT
    asks.check(site, posted=0 if is_deposit else count_of_all, deposits=count_of_all if is_deposit else 0)
    site.execute_as_admin(SERVICE, "VACUUM")
    metered = {
        "wal": (ended.log - began.log) / window.answers,
        "commands": (ended.commands - began.commands) / window.answers,
        "topics": (ended.topics - began.topics) / window.answers,
        "disk": (_size(site) - before) / count_of_all,
    }
    spent = {part: spent_us([window], part) for part in of_way(way, PARTS)}
    return spent | {meter: metered[meter] for meter in of_way(way, METERS)}


def _waiting_bytes(site: Site, jobs: int) -> float:
    """Return the memory that each job of a backlog takes in Redis."""
    backlog.lay_out(site, SERVICE, jobs, Spread.UNIFORM)
    before = _memory(site)
    backlog.enqueue(site)
    return (_memory(site) - before) / jobs


def _memory(site: Site) -> float:
    return float(site.redis.info("memory")["used_memory"])


def _read(site: Site, kafka: KafkaServer | None) -> _Read:
    with site.engines[SERVICE].connect() as connection:
        log = float(connection.execute(_LOG).scalar_one())
    return _Read(log, float(site.redis.info("stats")["total_commands_processed"]), _topics(kafka))


def _topics(kafka: KafkaServer | None) -> float:
    """Return what all records take, offsets of groups among them; not what the broker notes for itself."""
    logs = kafka.data.glob(f"{LOG_FOLDER}/*/*.log") if kafka else ()
    return float(sum(each.stat().st_size for each in logs if not each.parent.name.startswith("__cluster_metadata")))


def _size(site: Site) -> float:
    with site.engines[SERVICE].connect() as connection:
        return float(connection.execute(_SIZES).scalar_one())
