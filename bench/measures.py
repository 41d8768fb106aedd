"""All that is measured, once a round. The order is where the first round begins; each round begins one further on."""

from bench.backlog import Spread
from bench.drain import Drain, Stock
from bench.edge import Depth, Edge
from bench.figures import Figure, Measure, Ratio
from bench.pgbench import Pgbench
from bench.steady import Steady

# What the batching worker has to be worth beside one transaction for each transfer, and beside stock RQ.
MEASURES: tuple[Measure, ...] = (
    Drain(Spread.UNIFORM, workers=2, ratios=(Ratio("pgbench_uniform", 1.5), Ratio("stock", 40.0))),
    Pgbench(Spread.UNIFORM),
    Drain(Spread.HOT, workers=2, ratios=(Ratio("pgbench_hot", 5.0),)),
    Pgbench(Spread.HOT),
    Stock(workers=2),
    Drain(Spread.UNIFORM, workers=1),
    Drain(Spread.HOT, workers=1),
    Steady(20, p50_at_most_ms=10.0, follows=True),
    Steady(500),
    Edge(),
    Depth(),
)


def figures_of(measures: tuple[Measure, ...]) -> list[Figure]:
    """Return everything that these report, in the order of the table."""
    return [figure for measure in measures for figure in measure.figures]
