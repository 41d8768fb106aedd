"""Working on old books and on empty ones in turns: v1 and v2 over HTTP, and a backlog of jobs."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle

from sqlalchemy import text

from bench import backlog
from bench.asks import AMOUNT_CENTS, DRAWN, Kind
from bench.backlog import WALLETS
from bench.crew import Crew, at_work
from bench.figures import BenchError
from bench.flood import flood, request
from bench.site import SERVICE, Served, Site
from models.snowflake import layout

WORKERS = 2
CONNECTIONS = 16
WARM_UP_S = 1.0
KINDS = (Kind.NOW, Kind.LATER)
# Of the ids in backlogs: one that no process here gets to.
_NODE = 900
_PATHS = {Kind.NOW: "/api/transfer/v1", Kind.LATER: "/api/transfer/v2"}

_ORDER = """
INSERT INTO transfers (id, kind, source, destination, amount, trace)
SELECT :first + n, 'transfer', source, 1 + (source + floor(random() * (:wallets - 1))::bigint) % :wallets, 1,
    '00-' || md5(n::text) || '-' || left(md5((-n)::text), 16) || '-01'
FROM (SELECT n, 1 + floor(random() * :wallets)::bigint FROM generate_series(1, :count) AS n) AS drawn (n, source)
"""


@dataclass(slots=True)
class Side:
    """One of the two: ``wallets`` 1 to that pay each other; ``api`` while it serves; ``rates`` by what was done."""

    name: str
    site: Site
    wallets: int
    api: Served | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    drained: int = 0

    def ask(self, kind: Kind) -> Callable[[], bytes]:
        """Return what gives the next transfer of a kind."""
        draws = random.Random(1)
        pairs = [draws.sample(range(1, self.wallets + 1), 2) for _ in range(DRAWN)]
        body = b'{"destination_user_id":%d,"amount":%d}'
        ready = [request("POST", _PATHS[kind], user=a, body=body % (b, AMOUNT_CENTS)) for a, b in pairs]
        return cycle(ready).__next__

    def note(self, what: str, rate: float) -> None:
        """Keep a rate."""
        self.rates.setdefault(what, []).append(rate)

    @property
    def port(self) -> int:
        """The API's, while it serves."""
        if self.api is None:
            raise BenchError("nobody serves")
        return self.api.port


@contextmanager
def serving(*sides: Side) -> Iterator[None]:
    """Have the API and workers of all sides run, and warm."""
    with ExitStack() as stack:
        for side in sides:
            workers = [side.site.worker(number) for number in range(1, WORKERS + 1)]
            stack.enter_context(at_work(side.site.redis, workers))
            side.api = stack.enter_context(side.site.api())
        for side in sides:
            for kind in KINDS:
                _window(side, kind, WARM_UP_S)
        yield
    for side in sides:
        side.api = None


def ask_in_turns(sides: tuple[Side, Side], *, rounds: int, seconds: float) -> None:
    """Have windows of v1 and of v2 on both sides in turns; every other round goes backwards."""
    turns = [(side, kind) for kind in KINDS for side in sides]
    for number in range(rounds):
        for side, kind in turns if number % 2 else turns[::-1]:
            side.note(kind.value, _window(side, kind, seconds))


def drain_in_turns(sides: tuple[Side, Side], *, rounds: int, jobs: int) -> None:
    """Work off as many backlogs on both sides."""
    for number in range(rounds):
        for side in sides if number % 2 else sides[::-1]:
            side.note("drain", jobs / _drain(side, jobs))


def ratios(old: Side, young: Side) -> Mapping[str, float]:
    """Return the medians of the ratios within rounds."""
    return {
        what: statistics.median(a / b for a, b in zip(rates, young.rates[what], strict=True))
        for what, rates in old.rates.items()
    }


def _window(side: Side, kind: Kind, seconds: float) -> float:
    flooded = flood(side.port, side.ask(kind), connections=CONNECTIONS, seconds=seconds, status=kind.status)
    if kind is Kind.LATER:  # the next one begins when all of it is settled
        backlog.wait_until_final(side.site.engines[SERVICE])
        backlog.wait_until_booked(side.site.redis)
    return flooded.rate


def _drain(side: Side, jobs: int) -> float:
    """Return the seconds from letting workers go until all was booked."""
    site = side.site
    with site.engines[SERVICE].begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        first = layout.encode(round(time.time() * 1000), _NODE, 0) + side.drained
        given = {"first": first, "wallets": side.wallets, "count": jobs}
        connection.execute(text(_ORDER), given)
    side.drained += jobs
    site.execute_as_admin(SERVICE, "CHECKPOINT")
    backlog.enqueue(site)
    with Crew(site.redis, [site.worker(number) for number in range(1, WORKERS + 1)]) as crew:
        started = crew.let_go()
        ended = backlog.wait_until_booked(site.redis)
    if left := backlog.pending(site.engines[SERVICE]):
        raise BenchError(f"{left} transfers are still pending")
    return ended - started


def lay_out(site: Site) -> Side:
    """Return a side without a past."""
    backlog.lay_out(site, SERVICE, 0, backlog.Spread.UNIFORM)
    return Side("empty", site, WALLETS)
