"""When a failed attempt is followed by another: pure policy."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# How far a delay is spread around its setting, so that what failed together is not tried together.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """n delays in seconds make n + 1 attempts. ``spread`` draws a number from -1 to 1."""

    delays_s: Sequence[float]
    spread: Callable[[], float] = lambda: random.uniform(-1, 1)  # noqa: S311 - spreading load is not cryptography

    def delay_after(self, attempts: int) -> float | None:
        """Return the seconds to wait once this many attempts have failed, None when there is no other."""
        if attempts > len(self.delays_s):
            return None
        return self.delays_s[attempts - 1] * (1 + JITTER * self.spread())
