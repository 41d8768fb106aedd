"""The clock of API and workers leaps, and comes back."""

import random
import time
from pathlib import Path

from tests.chaos.stack import Stack
from tests.faketime import Clock, find_library

FILE = "clock"
# From what NTP does to what a machine does that wakes up with another day's time.
LEAPS_S = (-3_600, -5, 5, 3_600, 86_400)


def environment_of_clock(home: Path) -> dict[str, str]:
    """Return what a stack must be started with for its clock to be set; nothing where that cannot be."""
    if find_library() is None:
        return {}
    home.mkdir(parents=True, exist_ok=True)
    return Clock(home / FILE).environment


def step_clock(stack: Stack, rng: random.Random) -> bool:
    """Set the clock for as long as some requests take, and set it right again.

    What is issued meanwhile carries instants of another time, and what was begun before ends in it.
    """
    clock = Clock(stack.home / FILE)
    clock.set(rng.choice(LEAPS_S))
    time.sleep(rng.uniform(0.2, 1.5))  # how long it is wrong is the experiment
    clock.set(0)
    return True
