"""What is called over gRPC beside the same over REST and a bare Flask route, and what that costs.

As in :mod:`bench.edge`, everything is on, two workers settle meanwhile, and short windows take turns. As many calls are
under way of each kind: clients of gRPC have few connections with many calls on each, those of REST a connection each.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

from bench import asks, grpc_flood, parts
from bench.asks import READERS, Ask, Kind
from bench.crew import at_work
from bench.edge import WARM_UP_S, WORKERS, asker
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.flood import Flooded, FloodError, flood
from bench.grpc_flood import Call
from bench.site import Site
from bench.windows import Window, Windows, mean_rate, spent_us, turns
from wallet.v1 import wallet_pb2

CONNECTIONS, STREAMS = 8, 4
UNDER_WAY = CONNECTIONS * STREAMS
# A client's way to a method, before its name.
SERVICE = "/wallet.v1.WalletService/"
_PARTS = {
    "grpc": "gRPC's processes",
    "workers": "workers",
    "postgres": "PostgreSQL",
    "valkey": "Valkey",
    parts.CLIENT: "the client",
}
_MEMORY_MB = 120


@dataclass(frozen=True, slots=True)
class Stand:
    """A kind of request, and the gRPC method that it is sent to; without one it is sent over HTTP."""

    key: str
    kind: Kind
    method: str = ""
    ratios: tuple[Ratio, ...] = ()

    @property
    def figure(self) -> Figure:
        """Requests a second."""
        over = f"{CONNECTIONS} connections" if self.method else f"{UNDER_WAY} connections"
        return Figure(
            key=self.key,
            label=f"gRPC {self.method}, {over}" if self.method else f"{self.kind.label}, {over}",
            unit="/s",
            ratios=self.ratios,
            is_yardstick=not self.method,
            short="bare" if self.kind is Kind.BARE else f"REST's {self.kind.value}",
            heading=f"requests a second, {UNDER_WAY} under way, over gRPC and REST (longer is better)",
        )


_TO_BARE = Ratio("grpc_bare")
STANDS = (
    Stand("grpc_balance", Kind.BALANCE, "GetBalance", (Ratio("grpc_bare", 0.9), Ratio("grpc_rest_balance"))),
    Stand("grpc_rest_balance", Kind.BALANCE, ratios=(_TO_BARE,)),
    Stand("grpc_v2", Kind.LATER, "EnqueueTransfer", (Ratio("grpc_rest_v2", 1.2), _TO_BARE)),
    Stand("grpc_rest_v2", Kind.LATER, ratios=(_TO_BARE,)),
    Stand("grpc_v1", Kind.NOW, "Transfer", (_TO_BARE,)),
    Stand("grpc_bare", Kind.BARE),
)


class GrpcFace:
    """Calls a second, beside REST's requests; CPU a call, by part; memory, after all that."""

    name = "grpc"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Rates, their share of REST's and of the bare route's, microseconds, megabytes."""
        spent = (
            Figure(key=f"{stand.key}_cpu_{part}", label=f"CPU a call, {stand.method}: {label}", unit="µs")
            for stand in STANDS
            if stand.method
            for part, label in _PARTS.items()
        )
        memory = Figure(
            key="grpc_memory",
            label="PSS of gRPC's processes",
            unit="MB",
            at_most=_MEMORY_MB,
            heading="megabytes (shorter is better)",
        )
        master = Figure(key="grpc_memory_master", label="PSS of gRPC's master", unit="MB")
        return (*(stand.figure for stand in STANDS), *spent, memory, master)

    def take(self, site: Site, plan: Plan) -> Values:
        """Call in turns, for ``plan.window_s`` seconds each time."""
        asks.lay_out(site)
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        with ExitStack() as stack:
            stack.enter_context(at_work(site.redis, workers))
            api, served = stack.enter_context(site.api()), stack.enter_context(site.grpc())
            with site.bare() as bare:
                filled = Windows(site, workers, {"grpc": [served.process]})
                doors = _Doors(filled, grpc=served.port, api=api.port, bare=bare)
                try:
                    doors.warm_up()
                    for number in range(plan.windows):
                        for stand in turns(STANDS, number, plan.windows):
                            doors.open(stand, plan.window_s)
                except FloodError as error:
                    raise BenchError(str(error)) from error
            master, *processes = parts.family(served.process.pid or 0)
            held = {"grpc_memory": sum(map(parts.pss_mb, processes)), "grpc_memory_master": parts.pss_mb(master)}
        asks.check(site, posted=filled.transfers)
        return doors.values() | held


@dataclass(slots=True)
class _Doors:
    """The ports at which the three are, and what has been asked of them so far."""

    filled: Windows
    grpc: int
    api: int
    bare: int
    windows: dict[Stand, list[Window]] = field(default_factory=lambda: {stand: [] for stand in STANDS})
    _senders: dict[Stand, Callable[[float], Flooded]] = field(init=False)

    def __post_init__(self) -> None:
        self._senders = {stand: self._sender(stand) for stand in STANDS}

    def warm_up(self) -> None:
        """Have every kind answered for a while, and every read often enough to come out of the cache: reads are last.

        Each process of a face has to have come to believe the cache by then.
        """
        for stand in reversed(STANDS):
            answers = 0
            while answers < 2 * READERS:
                answers += self._fill(stand, WARM_UP_S).answers

    def open(self, stand: Stand, seconds: float) -> None:
        """Ask for a window, and keep what came of it."""
        self.windows[stand].append(self._fill(stand, seconds))

    def values(self) -> dict[str, float]:
        """Return all figures but memory."""
        found = {stand.key: mean_rate(windows) for stand, windows in self.windows.items()}
        for stand, windows in self.windows.items():
            if stand.method:
                found |= {f"{stand.key}_cpu_{part}": spent_us(windows, part) for part in _PARTS}
        return found

    def _fill(self, stand: Stand, seconds: float) -> Window:
        return self.filled.fill(stand.kind, partial(self._senders[stand], seconds))

    def _sender(self, stand: Stand) -> Callable[[float], Flooded]:
        """Return what asks for some seconds."""
        kind = stand.kind
        if stand.method:
            calls = caller(stand.method, kind)
            return lambda seconds: grpc_flood.flood(
                self.grpc, calls, connections=CONNECTIONS, streams=STREAMS, seconds=seconds
            )
        requests, port = asker(kind), self.bare if kind is Kind.BARE else self.api
        return lambda seconds: flood(port, requests, connections=UNDER_WAY, seconds=seconds, status=kind.status)


def caller(method: str, kind: Kind) -> Callable[[], Call]:
    """Return what makes the next call of a method: the same ones as REST's requests of a kind."""
    ready = [grpc_flood.call(SERVICE + method, user=ask.user, message=_message(ask)) for ask in asks.draw(kind)]
    return cycle(ready).__next__


def _message(ask: Ask) -> bytes:
    """Spell what REST is asked for: a transfer, or nothing but the user's balance."""
    return wallet_pb2.TransferRequest(**json.loads(ask.body)).SerializeToString() if ask.body else b""
