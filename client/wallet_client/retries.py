"""How often a call is made again, and when."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Bounds on the tries of one call, and the pauses between them.

    The pause before try n + 1 is anything up to ``first_pause_s`` times 2^(n - 1) (full jitter: callers that failed
    together do not come back together), and at most ``longest_pause_s``. Where the service says ``Retry-After``, that
    much comes before it. A pause that would end after ``deadline_s`` is not begun.
    """

    tries: int = 8
    deadline_s: float = 30.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    # For tests, and for whoever has another way of waiting.
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    # Between 0 and 1; it keeps no secret.
    spread: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.tries < 1 or self.deadline_s <= 0 or self.first_pause_s < 0 or self.longest_pause_s < 0:
            raise ValueError("tries should be 1 or more, deadline_s above 0, pauses not below 0")

    def pause_s(self, tried: int, retry_after_s: float | None) -> float:
        """Return how long to wait after so many tries."""
        # 2^30 is beyond any pause, and a float still.
        most = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(tried - 1, 30))
        return (retry_after_s or 0.0) + self.spread() * most


NO_RETRIES = Retries(tries=1)
