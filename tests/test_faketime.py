"""A process whose clock is set has another time, and sleeps as any other."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faketime import Clock, has_compiler

HOUR_S = 3_600
SLEEP_S = 0.1
SCRIPT = f"""
import time
began = time.monotonic()
time.sleep({SLEEP_S})
print(time.time(), time.monotonic() - began)
"""
WAIT = f"""
import confluent_kafka, time
producer = confluent_kafka.Producer({{"bootstrap.servers": "127.0.0.1:1", "log_level": 0}})
began, polls = time.monotonic(), 0
while (waited_s := time.monotonic() - began) < {SLEEP_S}:
    producer.poll({SLEEP_S})
    polls += 1
print(polls, waited_s)
"""
# Some end early, for what the client has to do.
FEW = 20


def test_only_its_wall_clock_is_set(tmp_path: Path) -> None:
    clock = Clock.or_skip(tmp_path / "clock")
    clock.set(HOUR_S)
    environment = {"PATH": os.environ["PATH"], **clock.environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    told, slept_s = map(float, done.stdout.split())
    assert HOUR_S / 2 < told - time.time() <= HOUR_S
    assert SLEEP_S <= slept_s < HOUR_S / 2


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_kafkas_client_waits_for_as_long_as_it_is_told(tmp_path: Path, ahead_s: int) -> None:
    clock = Clock.or_skip(tmp_path / "clock")
    clock.set(ahead_s)
    environment = {"PATH": os.environ["PATH"], **clock.environment}
    done = subprocess.run(
        [sys.executable, "-c", WAIT], env=environment, capture_output=True, text=True, check=True, timeout=HOUR_S / 60
    )
    polls, waited_s = map(float, done.stdout.split())
    assert polls < FEW
    assert waited_s < HOUR_S / 2
