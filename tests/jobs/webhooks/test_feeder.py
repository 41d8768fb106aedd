"""When the feeder goes round again."""

import threading

import pytest
from sqlalchemy import Engine

from jobs.webhooks import feeder
from jobs.webhooks.feeder import Feeder, FeederThread
from tests.patience import PATIENCE_S


class Round(Feeder):
    """Goes round, has nothing to do, or something, and lets a test wait for it."""

    def __init__(self, done: int) -> None:
        self.begun = threading.Semaphore(0)
        self._done = done

    def run_once(self) -> int:
        self.begun.release()
        return self._done

    fill = run_once


@pytest.mark.parametrize("done", [0, 8])
def test_room_is_filled_at_once_whatever_the_pass_before_has_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """One that ends while the next begins is often seen by a pass that then finds nothing."""
    for pause in ("PAUSE_S", "SHORT_PAUSE_S"):
        monkeypatch.setattr(feeder, pause, 10 * PATIENCE_S)
    has_room, passes = threading.Event(), Round(done)
    feeding = FeederThread(passes, engine, has_room)
    thread = threading.Thread(target=feeding.run)
    thread.start()
    try:
        for _ in range(3):
            assert passes.begun.acquire(timeout=PATIENCE_S)
            has_room.set()
    finally:
        feeding.stop()
        thread.join()
