"""How long a lone v1 takes, on a service that is asked at a steady rate, beside a lone transaction of PostgreSQL's."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle

import psycopg2

from bench import asks
from bench.asks import Kind
from bench.crew import at_work
from bench.figures import MILLISECONDS, BenchError, Figure, Plan, Ratio, Values
from bench.flood import SILENCE_S, is_complete, request
from bench.site import YARDSTICK, Site
from bench.steady import WORKERS, percentile
from ops.local.server import LOOPBACK

# Both of the API's processes are asked, whichever of them took which connection.
CONNECTIONS = 8
WARM_UP_REQUESTS = 80
_CHUNK = 65_536

_TABLE = "CREATE TABLE IF NOT EXISTS lone (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint)"
_INSERT = "INSERT INTO lone (amount) VALUES (67)"


@dataclass(frozen=True, slots=True)
class Lone:
    """``POST /api/transfer/v1`` at a rate; halfway between two of them the driver alone inserts a row and commits.

    No two of all these are under way at a time.
    """

    rate: int

    @property
    def name(self) -> str:
        """Such as ``steady_20_v1``."""
        return f"steady_{self.rate}_v1"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Milliseconds, and how often the yardstick's."""
        label = f"v1 posted, {self.rate} requests/s"
        commit = f"{self.name}_commit"
        return (
            Figure(
                key=f"{self.name}_p50", label=f"{label}, p50", unit="ms", ratios=(Ratio(commit),), heading=MILLISECONDS
            ),
            Figure(key=f"{self.name}_p99", label=f"{label}, p99", unit="ms"),
            Figure(
                key=commit,
                label=f"one row committed, {self.rate}/s, p50",
                unit="ms",
                is_yardstick=True,
                short="one commit",
                heading=MILLISECONDS,
            ),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for ``plan.steady_s`` seconds."""
        asks.lay_out(site)
        count = self.rate * plan.steady_s
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        with ExitStack() as stack:
            stack.enter_context(at_work(site.redis, workers))
            api = stack.enter_context(site.api())
            transfer = stack.enter_context(_transfers(api.port))
            commit = stack.enter_context(_commits(site))
            for _ in range(WARM_UP_REQUESTS):
                _time_of(transfer)
                _time_of(commit)
            seen = list(self._in_turns(count, transfer, commit))
        asks.check(site, posted=count + WARM_UP_REQUESTS)
        posted, committed = (sorted(times) for times in zip(*seen, strict=True))
        return {
            f"{self.name}_p50": percentile(posted, 0.5),
            f"{self.name}_p99": percentile(posted, 0.99),
            f"{self.name}_commit": percentile(committed, 0.5),
        }

    def _in_turns(
        self, count: int, transfer: Callable[[], None], commit: Callable[[], None]
    ) -> Iterator[tuple[float, float]]:
        """Give the times in milliseconds of both, each begun when it is due or, when that is later, free to begin."""
        began = time.monotonic()
        for number in range(count):
            _sleep_until(began + number / self.rate)
            posted = _time_of(transfer)
            _sleep_until(began + (number + 0.5) / self.rate)
            yield posted, _time_of(commit)


@contextmanager
def _transfers(port: int) -> Iterator[Callable[[], None]]:
    """Connect, and give what sends a transfer and waits for its answer."""
    ready = cycle([request(ask.method, ask.path, user=ask.user, body=ask.body) for ask in asks.draw(Kind.NOW)])
    with ExitStack() as stack:
        lines = []
        for _ in range(CONNECTIONS):
            line = stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=SILENCE_S))
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines.append(line)
        turns = cycle(lines)

        def transfer() -> None:
            line = next(turns)
            line.sendall(next(ready))
            received = b""
            while not is_complete(received):
                if not (piece := line.recv(_CHUNK)):
                    raise BenchError("the API hung up")
                received += piece
            if not received.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"an answer was {received[:60]!r}")

        yield transfer


@contextmanager
def _commits(site: Site) -> Iterator[Callable[[], None]]:
    """Connect to the yardstick's database, and give what inserts a row and commits it."""
    with closing(psycopg2.connect(site.url(YARDSTICK))) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLE)
        connection.commit()

        def commit() -> None:
            cursor.execute(_INSERT)
            connection.commit()

        yield commit


def _time_of(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _sleep_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.monotonic()))
