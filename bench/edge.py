"""What the API serves over HTTP beside a bare Flask route, and what that costs: processors by part, and memory.

Throttle, logs and metrics are on, as in production, and two workers settle meanwhile. Short windows of each kind of
request take turns, so that whatever else the machine does meets all of them alike; each begins with nothing pending.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

from bench import asks, parts
from bench.asks import READERS, Kind
from bench.crew import at_work
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.flood import Flooded, FloodError, flood, request
from bench.site import Site
from bench.windows import Window, Windows, mean_rate, spent_us, turns
from ops.local.processes import Command

WORKERS = 2
FEW, MANY = 16, 128
WARM_UP_S = 0.7

# What each kind is to reach of the bare route's rate at as many connections.
_GOALS = {
    (Kind.BALANCE, FEW): 0.80,
    (Kind.HISTORY, FEW): 0.70,
    (Kind.LATER, FEW): 0.35,
    (Kind.NOW, FEW): 0.33,
    (Kind.LATER, MANY): 0.45,
    (Kind.NOW, MANY): 0.45,
}
# What a wallet that everybody pays may cost.
_HOT_GOAL = 0.9
_SERVED = (Kind.BALANCE, Kind.HISTORY, Kind.LATER, Kind.NOW, Kind.HOT, Kind.BARE)
_WARMED = (Kind.BARE, Kind.HOT, Kind.NOW, Kind.LATER, Kind.HISTORY, Kind.BALANCE)
# Whose processors are counted, and for which kinds.
_COUNTED = (Kind.BALANCE, Kind.LATER, Kind.NOW)
_PARTS = {
    "api": "API processes",
    "workers": "workers",
    "postgres": "PostgreSQL",
    "valkey": "Valkey",
    parts.CLIENT: "the client",
}
_MEMORY_MB = 200
MEMORY = {"master": "API's master", "processes": "API's processes", "workers": f"{WORKERS} workers"}


@dataclass(frozen=True, slots=True)
class Stand:
    """Under which circumstances a kind of request is sent; ``is_alone``: no worker runs meanwhile."""

    kind: Kind
    connections: int
    is_alone: bool = False

    @property
    def key(self) -> str:
        """Such as ``v2_16`` and ``v2_alone_16``."""
        return f"{self.kind.value}{'_alone' if self.is_alone else ''}_{self.connections}"

    @property
    def is_counted(self) -> bool:
        """Whether it is told what each part has spent."""
        return self.kind in _COUNTED and self.connections == FEW and not self.is_alone

    @property
    def figure(self) -> Figure:
        """Requests a second."""
        bare = f"{Kind.BARE.value}_{self.connections}"
        goal = None if self.is_alone else _GOALS.get((self.kind, self.connections))
        ratios = [Ratio(bare, goal)] if self.kind is not Kind.BARE else []
        if self.kind is Kind.HOT:
            ratios.insert(0, Ratio(f"{Kind.NOW.value}_{self.connections}", _HOT_GOAL))
        where = f"{self.connections} connections"
        return Figure(
            key=self.key,
            label=f"{self.kind.label}, {where}{', no workers' if self.is_alone else ''}",
            unit="/s",
            ratios=tuple(ratios),
            is_yardstick=self.kind is Kind.BARE,
            short=self.kind.value,
            heading=""
            if self.is_alone
            else f"requests a second, {where}, {WORKERS} workers running (longer is better)",
        )


STANDS = tuple(
    Stand(kind, connections, is_alone)
    for connections in (FEW, MANY)
    for kind, is_alone in (*((kind, False) for kind in _SERVED), (Kind.LATER, True))
)


class Edge:
    """Requests a second, by kind and number of connections; CPU a request, by part; memory, after all that."""

    name = "edge"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Rates and their share of the bare route's, microseconds, megabytes."""
        spent = (
            Figure(key=f"parts_{kind.value}_{part}", label=f"CPU a request, {kind.label}: {label}", unit="µs")
            for kind in _COUNTED
            for part, label in _PARTS.items()
        )
        held = (Figure(key=f"memory_{part}", label=f"PSS of {label}", unit="MB") for part, label in MEMORY.items())
        total = Figure(
            key="memory",
            label=f"PSS of API and {WORKERS} workers",
            unit="MB",
            at_most=_MEMORY_MB,
            heading="megabytes (shorter is better)",
        )
        return (*(stand.figure for stand in STANDS), *spent, total, *held)

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask in turns, for ``plan.window_s`` seconds each time."""
        asks.lay_out(site)
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        with ExitStack() as stack:
            stack.enter_context(at_work(site.redis, workers))
            api = stack.enter_context(site.api())
            with site.bare() as bare:
                filled = Windows(site, workers, {"api": [api.process]})
                door = _Door(filled, api.port, bare)
                try:
                    door.warm_up()
                    for number in range(plan.windows):
                        for stand in turns(STANDS, number, plan.windows):
                            door.open(stand, plan.window_s)
                except FloodError as error:
                    raise BenchError(str(error)) from error
            memory = _memory(api.process, workers)
        asks.check(site, posted=filled.transfers)
        return door.values() | memory


@dataclass(slots=True)
class _Door:
    """The API and the bare route at its port, and what has been asked of them so far."""

    filled: Windows
    api: int
    bare: int
    windows: dict[Stand, list[Window]] = field(default_factory=lambda: {stand: [] for stand in STANDS})
    _asks: dict[Kind, Callable[[], bytes]] = field(default_factory=lambda: {kind: asker(kind) for kind in _SERVED})

    def warm_up(self) -> None:
        """Have every kind answered for a while, and every read often enough to come out of the cache.

        Reads are last: a process that has just begun does not believe the cache yet.
        """
        for kind in _WARMED:
            answers = 0
            while answers < 2 * READERS:
                answers += self._ask(Stand(kind, FEW), WARM_UP_S).answers

    def open(self, stand: Stand, seconds: float) -> None:
        """Ask for a window, and keep what came of it."""
        self.windows[stand].append(self._ask(stand, seconds))

    def values(self) -> dict[str, float]:
        """Return all figures, and for v2 what share of what was accepted was still pending at the end of a window."""
        found: dict[str, float] = {}
        for stand, windows in self.windows.items():
            found[stand.key] = mean_rate(windows)
            if stand.kind is Kind.LATER:
                answers = sum(window.answers for window in windows)
                found[f"{stand.key}_pending"] = sum(window.pending for window in windows) / answers
            if stand.is_counted:
                for part in _PARTS:
                    found[f"parts_{stand.kind.value}_{part}"] = spent_us(windows, part)
        return found

    def _ask(self, stand: Stand, seconds: float) -> Window:
        kind = stand.kind

        def send() -> Flooded:
            return flood(
                self.bare if kind is Kind.BARE else self.api,
                self._asks[kind],
                connections=stand.connections,
                seconds=seconds,
                status=kind.status,
            )

        return self.filled.fill(kind, send, is_alone=stand.is_alone)


def asker(kind: Kind) -> Callable[[], bytes]:
    """Return what makes the next request of a kind."""
    ready = [request(ask.method, ask.path, user=ask.user, body=ask.body) for ask in asks.draw(kind)]
    return cycle(ready).__next__


def _memory(api: Command, workers: Iterable[Command]) -> dict[str, float]:
    """Look when the yardstick has gone: what these share with it counts as theirs."""
    master, *processes = parts.family(api.pid or 0)
    held = {
        "memory_master": parts.pss_mb(master),
        "memory_processes": sum(map(parts.pss_mb, processes)),
        "memory_workers": sum(parts.pss_mb(pid) for each in workers for pid in parts.family(each.pid or 0)),
    }
    return {"memory": sum(held.values()), **held}
