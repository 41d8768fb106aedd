"""Waiting for conditions, and for others to wait."""

import time
from collections.abc import Callable

from flask import Flask

from tests.patience import PATIENCE_S


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def waiting_clients(app: Flask) -> int:
    """Return how many requests of the application wait for a job right now."""
    waiters: int = app.extensions["wallet"].waiting.waiters
    return waiters
