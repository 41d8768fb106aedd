"""A process whose clock is set has another time, and sleeps as any other."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.faketime import Clock

HOUR_S = 3_600
SLEEP_S = 0.1
SCRIPT = f"""
import time
began = time.monotonic()
time.sleep({SLEEP_S})
print(time.time(), time.monotonic() - began)
"""


def test_only_its_wall_clock_is_set(tmp_path: Path) -> None:
    clock = Clock.or_skip(tmp_path / "clock")
    clock.set(HOUR_S)
    environment = {"PATH": os.environ["PATH"], **clock.environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    told, slept_s = map(float, done.stdout.split())
    assert HOUR_S / 2 < told - time.time() <= HOUR_S
    assert SLEEP_S <= slept_s < HOUR_S / 2
