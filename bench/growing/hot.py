"""How often one wallet can be paid by v1: everybody pays it, over many connections."""

from dataclasses import dataclass

from bench import asks
from bench.asks import Kind
from bench.edge import MANY, WARM_UP_S, asker
from bench.figures import BenchError, Figure, Plan, Values
from bench.flood import FloodError, flood
from bench.site import Site


@dataclass(frozen=True, slots=True)
class Hot:
    """Transfers a second into one wallet."""

    name: str = "v1_hot"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """A rate."""
        return (Figure(key=self.name, label=f"{Kind.HOT.label}, {MANY} connections", unit="/s"),)

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask for as long as all windows of a kind last in other measures."""
        asks.lay_out(site)
        ready = asker(Kind.HOT)
        with site.api() as api:
            try:
                warm, window = (
                    flood(api.port, ready, connections=MANY, seconds=seconds, status=Kind.HOT.status)
                    for seconds in (WARM_UP_S, plan.window_s * plan.windows)
                )
            except FloodError as error:
                raise BenchError(str(error)) from error
        asks.check(site, posted=warm.answers + window.answers)
        return {self.name: window.rate}
