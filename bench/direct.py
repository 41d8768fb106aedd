"""v1 without HTTP: threads of one process that give orders to the ledger, all to one wallet and to many in turns."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from bench import asks
from bench.backlog import Spread
from bench.figures import Figure, Plan, Ratio, Values
from bench.site import SERVICE, Site
from jobs.connections import make_cache
from models.ledger.orders import Orders
from models.ledger.transfer import Kind, Order
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease

THREADS = 16
WARM_UP_S = 0.5
# What a wallet that everybody pays may cost.
_HOT_GOAL = 0.8


class Direct:
    """Orders executed a second."""

    name = "direct"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers a second."""
        label = f"v1 without HTTP, {THREADS} threads"
        heading = f"transfers posted a second, {THREADS} threads without HTTP (longer is better)"
        hot = Figure(
            key="direct_hot",
            label=f"{label}, one hot wallet",
            unit="/s",
            ratios=(Ratio("direct_uniform", _HOT_GOAL),),
            heading=heading,
        )
        uniform = Figure(key="direct_uniform", label=f"{label}, many wallets", unit="/s", short="many", heading=heading)
        return hot, uniform

    def take(self, site: Site, plan: Plan) -> Values:
        """Give orders of both kinds in turns, for ``plan.window_s`` seconds each time."""
        asks.lay_out(site)
        rates: dict[Spread, list[float]] = {Spread.HOT: [], Spread.UNIFORM: []}
        posted = 0
        with ExitStack() as stack:
            engine = site.make_engine(SERVICE, connections=THREADS)
            stack.callback(engine.dispose)
            snowflake = Snowflake(NodeLease(engine))
            stack.callback(snowflake.release)
            cache = stack.enter_context(closing(make_cache(site.settings(), engine)))
            orders = Orders(engine, snowflake, cache)
            pool = stack.enter_context(ThreadPoolExecutor(THREADS))
            for seconds in (WARM_UP_S, *[plan.window_s] * plan.windows):
                for spread, found in rates.items():
                    count, spent_s = _window(pool, orders, spread, seconds)
                    posted += count
                    if seconds != WARM_UP_S:
                        found.append(count / spent_s)
        asks.check(site, posted=posted)
        return {f"direct_{spread.value}": sum(found) / len(found) for spread, found in rates.items()}


def _window(pool: ThreadPoolExecutor, orders: Orders, spread: Spread, seconds: float) -> tuple[int, float]:
    """Have all threads begin together; return how many orders were executed, and in what time."""
    together = threading.Barrier(THREADS)

    def give(seed: int) -> int:
        draws, given = random.Random(seed), 0
        together.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            orders.execute(_order(*asks.draw_pair(draws, spread)))
            given += 1
        return given

    began = time.monotonic()
    count = sum(pool.map(give, range(THREADS)))
    return count, time.monotonic() - began


def _order(payer: int, payee: int) -> Order:
    return Order(
        call="transfer/v1",
        kind=Kind.TRANSFER,
        source=payer,
        destination=payee,
        amount_cents=asks.AMOUNT_CENTS,
    )
