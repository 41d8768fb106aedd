"""How fast a backlog of RQ jobs is worked off: by the service's workers, and by RQ's own."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from bench import backlog
from bench.backlog import Spread
from bench.crew import Crew
from bench.figures import SETTLED, Figure, Plan, Ratio, Values
from bench.site import SERVICE, Site
from ops.local.processes import Command

# The first of a stock worker's jobs imports the job's function, and is no measure of the others.
STOCK_WARM_UP = 0.1

_POSTING = """
SELECT extract(epoch FROM max(completed_at) - min(completed_at))::float8 FROM (
    SELECT completed_at FROM transfers WHERE kind = 'transfer' ORDER BY completed_at OFFSET :skipped
) AS measured
"""


@dataclass(frozen=True, slots=True)
class Drain:
    """The service's workers on a backlog, from the instant they may begin until the last job is booked."""

    spread: Spread
    workers: int
    ratios: tuple[Ratio, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``drain_uniform_2``."""
        return f"drain_{self.spread.value}_{self.workers}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers a second."""
        where = {Spread.UNIFORM: f"{backlog.WALLETS:,} wallets", Spread.HOT: "one hot wallet"}[self.spread]
        crew = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return (
            Figure(
                key=self.name, label=f"drain, {where}, {crew}", unit="/s", ratios=self.ratios,
                heading=SETTLED if self.ratios else "",
            ),
        )  # fmt: skip

    def take(self, site: Site, plan: Plan) -> Values:
        """Work off ``plan.jobs``; beside the rate, the one that PostgreSQL saw between first and last posting."""
        workers = [site.worker(number) for number in range(1, self.workers + 1)]
        drained_s, posting_s = _drain(site, workers, plan.jobs, self.spread, skipped=0)
        return {self.name: plan.jobs / drained_s, f"{self.name}_posting": plan.jobs / posting_s}


@dataclass(frozen=True, slots=True)
class Stock:
    """RQ's own SimpleWorker on the same queue and the same ledger.

    Measured by the instants of its postings, without the first of them, which is to its advantage.
    """

    workers: int
    name: str = "stock"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers a second."""
        label = f"stock RQ, {backlog.WALLETS:,} wallets, {self.workers} workers"
        return (Figure(key=self.name, label=label, unit="/s", is_yardstick=True, short="stock RQ", heading=SETTLED),)

    def take(self, site: Site, plan: Plan) -> Values:
        """Work off ``plan.stock_jobs``."""
        skipped = round(plan.stock_jobs * STOCK_WARM_UP)
        numbers = range(1, self.workers + 1)
        workers = [site.command(f"stock-{number}", "-m", "bench.stock_worker") for number in numbers]
        _, posting_s = _drain(site, workers, plan.stock_jobs, Spread.UNIFORM, skipped=skipped)
        # From one instant to the last there is one posting fewer than there are instants.
        return {self.name: (plan.stock_jobs - skipped - 1) / posting_s}


def _drain(site: Site, workers: list[Command], jobs: int, spread: Spread, *, skipped: int) -> tuple[float, float]:
    """Return the seconds until all was booked, and those between the first (not ``skipped``) and last posting."""
    backlog.lay_out(site, SERVICE, jobs, spread)
    backlog.enqueue(site)
    with Crew(site.redis, workers) as crew:
        started = crew.let_go()
        ended = backlog.wait_until_booked(site.redis)
    engine = site.engines[SERVICE]
    backlog.check(engine, posted=jobs)
    return ended - started, _posting_s(engine, skipped)


def _posting_s(engine: Engine, skipped: int) -> float:
    with engine.connect() as connection:
        return float(connection.scalar(text(_POSTING), {"skipped": skipped}) or 0.0)
