"""What a measure is, and the words for what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bench.site import Site

# Values by the keys of figures; further keys are only kept in bench.json.
Values = Mapping[str, float]


# Headings of the chart.
SETTLED = "transfers settled a second (longer is better)"
MILLISECONDS = "milliseconds (shorter is better)"


class BenchError(Exception):
    """What was measured cannot be trusted, or not be measured. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    ``jobs``: in the backlog of a drain. ``stock_jobs``: the same for stock RQ workers. ``pgbench_s``, ``steady_s``:
    how long pgbench and a steady rate of requests last. ``window_s``: of each kind of request or call, ``windows`` of
    each. ``calls``: in a pass through one kind of call, and ``is_patched``: those are made as under gevent.
    ``settings``: of the service, over its defaults.
    """

    rounds: int = 5
    jobs: int = 60_000
    stock_jobs: int = 1_000
    pgbench_s: int = 7
    steady_s: int = 8
    window_s: float = 0.8
    windows: int = 3
    calls: int = 600
    is_patched: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure divided by another one of the same round, and what that is to be, if anything is demanded of it."""

    to: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that is reported, and what is expected of it.

    ``unit`` is ``/s``, ``s``, ``ms``, ``µs``, ``MB`` or ``B``, or empty for a number of things; ``is_yardstick``:
    measured to compare with, not to be proud of.
    ``heading``: under which the chart draws it; empty: the chart does without. ``short``: its name beside another one.
    """

    key: str
    label: str
    unit: str
    ratios: tuple[Ratio, ...] = ()
    at_most: float | None = None
    is_yardstick: bool = False
    heading: str = ""
    short: str = ""


class Measure(Protocol):
    """One thing that is measured once a round. Add a new one to :data:`bench.measures.MEASURES`.

    Two attributes are optional. ``rounds``: in how many rounds it is taken when everything is; in all of them when it
    is asked for. ``needs_kafka``: it cannot be taken where no broker can be run.
    """

    @property
    def name(self) -> str:
        """What ``--only`` finds it by."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What it reports."""

    def take(self, site: Site, plan: Plan) -> Values:
        """Measure once, on a site that it first lays out for itself.

        Raises:
            BenchError: there is no result to be trusted.
        """
