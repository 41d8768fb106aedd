"""How long a transfer takes from being accepted to being posted, on a service that is asked at a steady rate."""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from bench import backlog
from bench.backlog import WALLETS, Spread
from bench.crew import at_work
from bench.figures import MILLISECONDS, Figure, Plan, Values
from bench.http_client import Connection, at_rate
from bench.site import SERVICE, Site

WORKERS = 2
# Before anything is measured: connections, caches, imports.
WARM_UP_REQUESTS = 40
WARM_UP_RATE = 40

# In milliseconds. completed_at is the instant of the statement that posts; its commit follows. What a caller sees,
# commit and all, is measured from outside.
_SETTLED = """
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
    ORDER BY extract(epoch FROM completed_at - created_at) * 1000
) FROM transfers WHERE kind = 'transfer' AND id > :warm
"""


@dataclass(frozen=True, slots=True)
class Steady:
    """``POST /api/transfer/v2`` at a rate, on one API and two workers with nothing else to do.

    ``follows``: after each 202, ask by long polling when it is posted, which itself is work for the service.
    """

    rate: int
    p50_at_most_ms: float | None = None
    follows: bool = False

    @property
    def name(self) -> str:
        """Such as ``steady_20``."""
        return f"steady_{self.rate}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Milliseconds."""
        label = f"v2 accepted to posted, {self.rate} requests/s"
        settled = (
            Figure(
                key=f"{self.name}_p50", label=f"{label}, p50", unit="ms", at_most=self.p50_at_most_ms,
                heading="" if self.p50_at_most_ms is None else MILLISECONDS,
            ),
            Figure(key=f"{self.name}_p99", label=f"{label}, p99", unit="ms"),
        )  # fmt: skip
        seen = f"v2 request to {'posted as seen by HTTP' if self.follows else '202'}, {self.rate} requests/s"
        return (
            *settled,
            Figure(key=f"{self.name}_http_p50", label=f"{seen}, p50", unit="ms"),
            Figure(key=f"{self.name}_http_p99", label=f"{seen}, p99", unit="ms"),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for ``plan.steady_s`` seconds."""
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
        with at_work(site.redis, workers), site.api() as api:
            return self.ask(site, plan, api.port)

    def ask(self, site: Site, plan: Plan, port: int) -> Values:
        """Ask an API that runs, with whoever settles what it accepts."""
        count = self.rate * plan.steady_s
        asyncio.run(at_rate(port, WARM_UP_RATE, WARM_UP_REQUESTS, self._transfer))
        backlog.wait_until_final(site.engines[SERVICE])
        warm = self._newest(site)
        answers = asyncio.run(at_rate(port, self.rate, count, self._transfer))
        backlog.wait_until_final(site.engines[SERVICE])
        backlog.check(site.engines[SERVICE], posted=count + WARM_UP_REQUESTS)
        with site.engines[SERVICE].connect() as connection:
            settled: Sequence[float] = connection.execute(text(_SETTLED), {"warm": warm}).scalar_one()
        seen = sorted((instant - due) * 1000 for due, instant in answers)
        return {
            f"{self.name}_p50": settled[0],
            f"{self.name}_p99": settled[1],
            f"{self.name}_http_p50": percentile(seen, 0.5),
            f"{self.name}_http_p99": percentile(seen, 0.99),
        }

    async def _transfer(self, connection: Connection, _number: int) -> float:
        """Send one transfer between two random wallets and return when it was answered, or posted."""
        payer, payee = random.sample(range(1, WALLETS + 1), 2)
        order: dict[str, object] = {"destination_user_id": payee, "amount": 67}
        accepted = await connection.ask("POST", "/api/transfer/v2", user=payer, body=order)
        if self.follows:
            await connection.ask("GET", f"{accepted['status_url']}?wait=10", user=payer)
        return time.monotonic()

    def _newest(self, site: Site) -> int:
        with site.engines[SERVICE].connect() as connection:
            return int(connection.execute(text("SELECT max(id) FROM transfers")).scalar_one())


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least of these, in ascending order, that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
