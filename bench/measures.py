"""All that is measured, once a round. The order is where the first round begins; each round begins one further on."""

from collections.abc import Sequence

from bench.backlog import Spread
from bench.bulk import Bulk
from bench.calls import Calls
from bench.cost import Cost
from bench.depth import Depth
from bench.direct import Direct
from bench.drain import Drain, Stock
from bench.edge import Edge
from bench.fields import Fields
from bench.figures import Figure, Measure, Ratio
from bench.grpc_face import GrpcFace
from bench.kafka.drain import KafkaDrain
from bench.kafka.faults import BrokerKilled, ConsumerKilled, OneOfThreeKilled, TopicsDeleted
from bench.kafka.steady import KafkaSteady
from bench.lone import Lone
from bench.pgbench import Pgbench
from bench.steady import Steady
from bench.watchers import Watchers
from bench.webhooks import Webhooks

# What the batching worker has to be worth beside one transaction for each transfer, and beside stock RQ.
MEASURES: tuple[Measure, ...] = (
    Drain(Spread.UNIFORM, workers=2, ratios=(Ratio("pgbench_uniform", 1.5), Ratio("stock", 40.0))),
    Pgbench(Spread.UNIFORM),
    Drain(Spread.HOT, workers=2, ratios=(Ratio("pgbench_hot", 6.0),)),
    Pgbench(Spread.HOT),
    Stock(workers=2),
    Drain(Spread.UNIFORM, workers=1),
    Drain(Spread.HOT, workers=1),
    Steady(20, p50_at_most_ms=10.0, follows=True),
    Lone(20),
    Steady(500),
    Calls(),
    Edge(),
    Bulk(),
    Fields(),
    Webhooks(),
    GrpcFace(),
    Watchers(),
    Direct(),
    Depth(),
    Cost(),
    KafkaDrain(
        Spread.UNIFORM,
        ratios=(Ratio("pgbench_uniform", 1.6), Ratio("drain_uniform_2", 1.15)),
        announced_ratios=(Ratio("kafka_drain_uniform_2_silent", 0.9),),
    ),
    KafkaDrain(Spread.UNIFORM, is_silent=True),
    KafkaDrain(Spread.HOT, ratios=(Ratio("pgbench_hot", 5.0),)),
    KafkaSteady(20, p50_at_most_ms=25.0),
    ConsumerKilled(at_most_s=8.0),
    BrokerKilled(at_most_s=15.0),
    OneOfThreeKilled(at_most_s=5.0),
    TopicsDeleted(at_most_s=15.0),
)


def chosen(words: Sequence[str]) -> tuple[Measure, ...]:
    """Return those with one of these words in their name, or in the key of something that they report."""
    return tuple(
        each
        for each in MEASURES
        if any(word in name for word in words for name in (each.name, *(figure.key for figure in each.figures)))
    )


def due_in(number: int, measures: tuple[Measure, ...], *, is_all: bool) -> tuple[Measure, ...]:
    """Return which of these are taken in a round, counted from 0; ``is_all``: nobody has asked for some of them."""
    return tuple(each for each in measures if not is_all or number < getattr(each, "rounds", number + 1))


def needs_kafka(measure: Measure) -> bool:
    """Tell whether it cannot be taken without a broker."""
    return bool(getattr(measure, "needs_kafka", False))


def figures_of(measures: tuple[Measure, ...]) -> list[Figure]:
    """Return everything that these report, in the order of the table."""
    return [figure for measure in measures for figure in measure.figures]
