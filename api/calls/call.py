"""A call as all faces know it: who sends it, whose trace it belongs to, what its answer tells besides."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from api.calls.tracing import Trace


@dataclass(slots=True)
class Call:
    """One call. Each face makes it out of what it was sent, and writes what it tells where callers look for it."""

    trace: Trace
    # The credentials as they were sent; None: there were none.
    authorization: str | None
    # Returns the address that it comes from.
    find_address: Callable[[], str]
    # What its answer, whatever it will be, tells besides, by the names of HTTP's headers.
    told: list[tuple[str, str]] = field(default_factory=list)
    # The monotonic instant after which nobody waits for its answer.
    ends_at: float = math.inf
    # Which transfer of it stands in the books: whatever goes wrong from here on, it stands.
    placed: int | None = None

    def tell(self, name: str, value: str) -> None:
        """Let its answer tell something more."""
        self.told.append((name, value))
