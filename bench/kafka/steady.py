"""How long a transfer takes over Kafka from being accepted to being posted, on a service with little to do."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

from bench import backlog
from bench.backlog import Spread
from bench.figures import Figure, Plan, Values
from bench.kafka.brokers import one_broker
from bench.site import SERVICE, Site
from bench.steady import WORKERS, Steady


@dataclass(frozen=True, slots=True)
class KafkaSteady:
    """``POST /api/transfer/v2`` at a rate, on one API and two consumers with nothing else to do."""

    rate: int
    p50_at_most_ms: float
    needs_kafka: ClassVar[bool] = True
    rounds: ClassVar[int] = 3

    @property
    def name(self) -> str:
        """Such as ``kafka_steady_20``."""
        return f"kafka_steady_{self.rate}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Milliseconds."""
        label = f"v2 accepted to posted over Kafka, {self.rate} requests/s"
        return (
            Figure(key=f"{self.name}_p50", label=f"{label}, p50", unit="ms", at_most=self.p50_at_most_ms),
            Figure(key=f"{self.name}_p99", label=f"{label}, p99", unit="ms"),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for ``plan.steady_s`` seconds."""
        steady = Steady(self.rate)
        with ExitStack() as stack:
            kafka = stack.enter_context(one_broker(site))
            backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
            kafka.forget()
            stack.enter_context(kafka.group([kafka.worker(number) for number in range(1, WORKERS + 1)]))
            api = stack.enter_context(site.api(**kafka.environment))
            found = steady.ask(site, plan, api.port)
        return {f"kafka_{key}": value for key, value in found.items()}
