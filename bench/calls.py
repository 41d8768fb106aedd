"""What a request costs the application alone: CPU a call, without a server, beside a bare Flask route.

A process of its own makes the calls, with real PostgreSQL and Valkey, logs and metrics. Unlike a rate this hardly
depends on what else the machine does.
"""

import json

from bench import asks, backlog
from bench.asks import Kind
from bench.caller import KINDS, PASSES
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.site import SERVICE, Site

# Generous: on a busy machine.
_LONGEST_CALL_S, _START_S = 0.02, 60.0

# Of the bare route's; it took 134 µs where balance, v2 and v1 were to take 350, 750 and 900.
_GOALS = {Kind.BALANCE: 2.6, Kind.LATER: 5.6, Kind.NOW: 6.7}


class Calls:
    """Microseconds of CPU a call, by kind: of all threads, the best of some passes."""

    name = "calls"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Times, and how often the bare route's."""
        return tuple(_figure(kind) for kind in KINDS)

    def take(self, site: Site, plan: Plan) -> Values:
        """Have ``plan.calls`` made of each kind, some times over."""
        asks.lay_out(site)
        result = site.home / "calls.json"
        result.unlink(missing_ok=True)
        start = ["-m", "gevent.monkey", "--module"] if plan.is_patched else ["-m"]
        caller = site.command("calls", *start, "bench.caller", str(result), str(plan.calls))
        caller.launch()
        try:
            ended = caller.wait(_START_S + len(KINDS) * (PASSES + 1) * plan.calls * _LONGEST_CALL_S)
        finally:
            caller.kill()
        if not ended or not result.exists():
            raise BenchError(f"the calls were not made: {caller.complaint()}")
        found = {Kind(key): each for key, each in json.loads(result.read_text()).items()}
        if (left := backlog.pending(site.engines[SERVICE])) != found[Kind.LATER]["answered"]:
            raise BenchError(f"of {found[Kind.LATER]['answered']} accepted transfers {left} are pending")
        asks.check(site, posted=found[Kind.NOW]["answered"], deposits=found[Kind.DEPOSIT]["answered"])
        return {f"calls_{kind.value}": each["seconds"] * 1e6 for kind, each in found.items()}


def _figure(kind: Kind) -> Figure:
    ratios = () if kind is Kind.BARE else (Ratio(f"calls_{Kind.BARE.value}", at_most=_GOALS.get(kind)),)
    return Figure(
        key=f"calls_{kind.value}",
        label=f"call, {kind.label}",
        unit="µs",
        ratios=ratios,
        is_yardstick=kind is Kind.BARE,
        short=kind.value,
        heading="microseconds of CPU a call, in process (shorter is better)",
    )
