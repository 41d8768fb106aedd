"""What a description, a reference and metadata cost a transfer: the same orders with them and without, in turns.

Those with have one database and those without the other, so the books of both are of the same size, and what grows
meets both alike. Counted is the processors' time of who accepts or settles, which is this process, and of PostgreSQL.
Nobody caches the wallets: evictions would cost both the same.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from statistics import median
from typing import TypeVar

from sqlalchemy import Engine, text

from bench import asks, backlog, parts
from bench.backlog import Spread
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.site import SERVICE, YARDSTICK, Site
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from models.company import keep_company
from models.ledger.orders import Orders
from models.ledger.transfer import NO_DETAILS, Details, Kind, Order
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease

Thing = TypeVar("Thing")

GOAL = 1.05
# Orders that come together: as many as wait at 16 connections while the group before them runs.
GROUP = 16
BATCH = 300
STEPS = {
    "lone": "accepted alone",
    "group": f"accepted in groups of {GROUP}",
    "settle": f"settled in batches of {BATCH}",
}
# Of plan.jobs, what is accepted alone, and in groups, in a window. All of it is settled in the next one.
LONE_SHARE, GROUP_SHARE = 0.01, 0.05

_TOLD = text("""
SELECT count(*) FROM transfers WHERE description IS NOT NULL AND reference IS NOT NULL AND metadata IS NOT NULL
""")


class Fields:
    """Microseconds of processors that a transfer takes, client and PostgreSQL together."""

    name = "fields"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Of each step, with all three fields and without."""
        return tuple(
            figure
            for step, label in STEPS.items()
            for figure in (
                Figure(
                    key=f"fields_{step}",
                    label=f"CPU, {label}, with description, reference, metadata",
                    unit="µs",
                    ratios=(Ratio(f"fields_{step}_plain", at_most=GOAL),),
                ),
                Figure(key=f"fields_{step}_plain", label=f"CPU, {label}, without", unit="µs", is_yardstick=True),
            )
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Accept and settle twice ``plan.windows`` times; beside the sums, what each of the two has spent."""
        backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
        backlog.open_wallets(site, YARDSTICK)
        site.execute_as_admin(YARDSTICK, "VACUUM ANALYZE", "CHECKPOINT")
        with ExitStack() as stack:
            snowflake = Snowflake(NodeLease(site.engines[SERVICE]))
            stack.callback(snowflake.release)
            policy = RetryPolicy(site.settings().retry_delays)
            both = [
                _Books(
                    suffix, engine, is_told, draw(is_told=is_told), Orders(engine, snowflake), Settler(engine, policy)
                )
                for suffix, engine, is_told in (
                    ("", site.engines[SERVICE], True),
                    ("_plain", site.engines[YARDSTICK], False),
                )
            ]
            for number in range(2 * plan.windows + 1):
                for step in STEPS:
                    for books in both[:: -1 if number % 2 else 1]:
                        books.run(step, site, plan, is_measured=number > 0)
        for books in both:
            books.check()
        return {key: value for books in both for key, value in books.costs().items()}


@dataclass(slots=True)
class _Books:
    """One of the databases, who works on it, and what that has taken so far.

    ``suffix``: of its figures. ``given``: orders for it, with all fields if it ``is_told``, or else with none.
    ``waiting``: the ids of what was accepted and is to be settled. ``spent_us``: of a transfer, in each window.
    """

    suffix: str
    engine: Engine
    is_told: bool
    given: Iterator[Order]
    orders: Orders
    settler: Settler
    waiting: list[int] = field(default_factory=list)
    spent_us: dict[str, list[float]] = field(default_factory=partial(defaultdict, list))
    settled: int = 0

    def run(self, step: str, site: Site, plan: Plan, *, is_measured: bool) -> None:
        """Take a step with as many transfers as belong in a window."""
        share = {"lone": LONE_SHARE, "group": GROUP_SHARE}.get(step, 0.0)
        orders = list(islice(self.given, math.ceil(plan.jobs * share)))
        count = len(orders) or len(self.waiting)
        # Looking for PostgreSQL's processes takes time itself, which is nobody's here.
        postgres_s, client_s = _postgres_s(site), time.process_time()
        if step == "lone":
            for order in orders:
                self._accept(order)
        elif step == "group":
            for some in _split(orders, GROUP):
                keep_company([partial(self._accept, order) for order in some])
        else:
            self._settle()
        client_s, postgres_s = time.process_time() - client_s, _postgres_s(site) - postgres_s
        if is_measured:
            spent_s = {"": client_s + postgres_s, "_client": client_s, "_postgres": postgres_s}
            for part, seconds in spent_s.items():
                self.spent_us[f"fields_{step}{self.suffix}{part}"].append(seconds / count * 1e6)

    def costs(self) -> Values:
        """Return what a transfer has taken in each step, and each part of that: medians, since autovacuum comes by."""
        return {key: median(values) for key, values in self.spent_us.items()}

    def check(self) -> None:
        """See that all is settled, and that all of it says what it was to say.

        Raises:
            BenchError: not so.
        """
        backlog.check(self.engine, posted=self.settled)
        with self.engine.connect() as connection:
            told = connection.execute(_TOLD).scalar_one()
        if told != (self.settled if self.is_told else 0):
            raise BenchError(f"{told} of {self.settled} transfers have all three fields")

    def _accept(self, order: Order) -> None:
        self.waiting.append(self.orders.accept(order).transfer_id)

    def _settle(self) -> None:
        for ids in _split(self.waiting, BATCH):
            settled = self.settler.settle(ids)
            if len(settled.outcomes) != len(ids):
                raise BenchError(f"of {len(ids)} transfers {len(settled.outcomes)} were settled: {settled.fault}")
            self.settled += len(ids)
        self.waiting.clear()


def draw(*, is_told: bool) -> Iterator[Order]:
    """Draw orders for ever, the same ones each time, with a trace as each that comes through the API has one."""
    draws, words = random.Random(1), random.Random(2)
    while True:
        payer, payee = asks.draw_pair(draws, Spread.UNIFORM)
        yield Order(
            call="transfer/v2",
            kind=Kind.TRANSFER,
            source=payer,
            destination=payee,
            amount_cents=asks.AMOUNT_CENTS,
            trace=f"00-{draws.getrandbits(128):032x}-{draws.getrandbits(64):016x}-01",
            details=_details(words) if is_told else NO_DETAILS,
        )


def _details(draws: random.Random) -> Details:
    """Draw what a shop would say: 42 characters, a reference of 16 in no order, and three pairs."""
    number = f"{draws.randrange(10**8):08d}"
    return Details(
        description=f"Invoice {number}, thank you for your order",
        reference=f"order-{draws.randrange(16**10):010x}",
        metadata={"order_id": number, "channel": "web shop", "campaign": "autumn-2026"},
    )


def _postgres_s(site: Site) -> float:
    return parts.cpu_s({"postgres": [site.postgres.pid or 0]})["postgres"]


def _split(things: Sequence[Thing], size: int) -> Iterator[Sequence[Thing]]:
    for first in range(0, len(things), size):
        yield things[first : first + size]
