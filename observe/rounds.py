"""When this process last went round the loop that it is there for: one that hangs in it is alive, and does nothing."""

import time
from collections.abc import Callable

# The longest that a round may take. A batch that is narrowed down, statement by statement, takes long and is none that
# hangs.
LONGEST_S = 120.0


class Rounds:
    """Of one loop. Any thread may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """It has not gone round yet."""
        self._clock = clock
        self._last = float("-inf")

    def note(self) -> None:
        """It goes round."""
        self._last = self._clock()

    def go_on(self) -> bool:
        """Whether it has done so lately."""
        return self._clock() - self._last < LONGEST_S


# Of what works in this process.
of_work = Rounds()
