"""Short windows of several kinds of requests that take turns, and what all parts of the service have spent in each."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from bench import backlog, parts
from bench.asks import Kind
from bench.crew import held_still
from bench.flood import Flooded
from bench.site import SERVICE, Site
from ops.local.processes import Child, Command

Stand = TypeVar("Stand")


@dataclass(slots=True)
class Window:
    """What came of one: answers a second; answers in all; of those, pending at its end; what each part has spent."""

    rate: float
    answers: int
    pending: int
    spent_s: Mapping[str, float]


@dataclass(slots=True)
class Windows:
    """Has windows filled, each from when nothing is pending until nothing is.

    ``callees``: the processes that are asked, by what they are called as a part. ``transfers``: how many were answered.
    ``until_told``: waits for what is still done when all is settled.
    """

    site: Site
    workers: Sequence[Command]
    callees: Mapping[str, Sequence[Child]]
    transfers: int = 0
    until_told: Callable[[], None] = lambda: None

    def fill(self, kind: Kind, send: Callable[[], Flooded], *, is_alone: bool = False) -> Window:
        """Have requests sent, and wait until all that they ask for is settled.

        Args:
            kind: of the requests.
            send: sends them.
            is_alone: no worker runs meanwhile.
        """
        before, pending = self._spent_s(), 0
        with ExitStack() as stack:
            if is_alone:
                stack.enter_context(held_still(self.workers))
            flooded = send()
            if kind is Kind.LATER:
                pending = backlog.pending(self.site.engines[SERVICE])
        if kind is Kind.LATER:  # the next one begins, and this one's cost is known, when all of it is settled
            backlog.wait_until_final(self.site.engines[SERVICE])
            backlog.wait_until_booked(self.site.redis)
            self.until_told()
        if kind in {Kind.LATER, Kind.NOW, Kind.HOT}:
            self.transfers += flooded.answers
        spent_s = {part: now - before[part] for part, now in self._spent_s().items()}
        return Window(flooded.rate, flooded.answers, pending, spent_s)

    def _spent_s(self) -> dict[str, float]:
        roots: dict[str, Sequence[Child]] = {
            **self.callees,
            "workers": self.workers,
            "postgres": [self.site.postgres],
            "valkey": [self.site.valkey],
        }
        return parts.cpu_s({part: [each.pid or 0 for each in children] for part, children in roots.items()})


def turns(stands: Sequence[Stand], number: int, windows: int) -> Sequence[Stand]:
    """Return the order of a pass: each begins elsewhere, and every other one goes backwards."""
    first = number * len(stands) // windows
    turned = [*stands[first:], *stands[:first]]
    return turned[::-1] if number % 2 else turned


def mean_rate(windows: Sequence[Window]) -> float:
    """Return the answers a second, of all windows of a kind."""
    return sum(window.rate for window in windows) / len(windows)


def spent_us(windows: Sequence[Window], part: str) -> float:
    """Return what an answer has cost a part, in microseconds."""
    return sum(window.spent_s[part] for window in windows) / sum(window.answers for window in windows) * 1e6
