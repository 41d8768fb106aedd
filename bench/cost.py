"""What one transfer costs: processors by part, bytes of write-ahead log and on disk, commands and memory of Redis.

Each way is measured by itself, on books that are laid out anew: windows of requests one after the other, from when
nothing is pending until nothing is. What is written to the log and to disk does not depend on what else the machine
does, and what processors spend hardly.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
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

CONNECTIONS = 16
# The ways that money moves. Another transport of v2 is another row.
WAYS = {"v2": (Kind.LATER, "v2 through RQ"), "v1": (Kind.NOW, "v1"), "deposit": (Kind.DEPOSIT, "deposit")}
# Whose processors are counted. What else there is (a broker) is one more row, and its processes are callees below.
PARTS = {"api": "API", "workers": "workers", "postgres": "PostgreSQL", "valkey": "Redis"}
METERS = {
    "wal": ("write-ahead log", "B"),
    "disk": ("tables and indexes", "B"),
    "commands": ("Redis, commands and those of scripts", ""),
}
# Jobs whose memory is looked at while they wait.
WAITING = 5_000
_LOG = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8")
_SIZES = text("SELECT sum(pg_total_relation_size(name))::float8 FROM unnest(ARRAY['transfers', 'entries']) AS name")


class _Read(NamedTuple):
    """Bytes that were logged, and commands that were executed, since the servers were made."""

    log: float
    commands: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Of v2, v1 and a deposit, each a transfer; memory of a job that waits."""

    name: str = "cost"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Microseconds, bytes, commands."""
        spent = (
            Figure(key=f"cost_{way}_{part}", label=f"{label}: CPU, {who}", unit="µs")
            for way, (_, label) in WAYS.items()
            for part, who in PARTS.items()
        )
        metered = (
            Figure(key=f"cost_{way}_{meter}", label=f"{label}: {what}", unit=unit)
            for way, (_, label) in WAYS.items()
            for meter, (what, unit) in METERS.items()
        )
        memory = Figure(key="cost_v2_waiting", label="v2 through RQ: Redis's memory while it waits", unit="B")
        return (*spent, *metered, memory)

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for each for as long as all windows of a kind last in other measures."""
        found = {"cost_v2_waiting": _waiting_bytes(site, min(plan.jobs, WAITING))}
        for way, (kind, _) in WAYS.items():
            costs = _take(site, kind, plan.window_s * plan.windows)
            found |= {f"cost_{way}_{what}": value for what, value in costs.items()}
        return found


def _take(site: Site, kind: Kind, seconds: float) -> Mapping[str, float]:
    asks.lay_out(site)
    before = _size(site)
    workers = [site.worker(number) for number in range(1, WORKERS + 1)]
    with ExitStack() as stack:
        stack.enter_context(at_work(site.redis, workers))
        api = stack.enter_context(site.api())
        windows = Windows(site, workers, {"api": [api.process]})
        send = partial(flood, api.port, asker(kind), connections=CONNECTIONS, status=kind.status)
        try:
            warm = windows.fill(kind, partial(send, seconds=WARM_UP_S))
            began = _read(site)
            window = windows.fill(kind, partial(send, seconds=seconds))
            ended = _read(site)
        except FloodError as error:
            raise BenchError(str(error)) from error
    count = warm.answers + window.answers
    is_deposit = kind is Kind.DEPOSIT
    asks.check(site, posted=0 if is_deposit else count, deposits=count if is_deposit else 0)
    site.execute_as_admin(SERVICE, "VACUUM")
    return {
        **{part: spent_us([window], part) for part in PARTS},
        "wal": (ended.log - began.log) / window.answers,
        "commands": (ended.commands - began.commands) / window.answers,
        "disk": (_size(site) - before) / count,
    }


def _waiting_bytes(site: Site, jobs: int) -> float:
    """Return the memory that each job of a backlog takes in Redis."""
    backlog.lay_out(site, SERVICE, jobs, Spread.UNIFORM)
    before = _memory(site)
    backlog.enqueue(site)
    return (_memory(site) - before) / jobs


def _memory(site: Site) -> float:
    return float(site.redis.info("memory")["used_memory"])


def _read(site: Site) -> _Read:
    with site.engines[SERVICE].connect() as connection:
        log = float(connection.execute(_LOG).scalar_one())
    return _Read(log, float(site.redis.info("stats")["total_commands_processed"]))


def _size(site: Site) -> float:
    with site.engines[SERVICE].connect() as connection:
        return float(connection.execute(_SIZES).scalar_one())
