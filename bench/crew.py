"""Worker processes that are ready, held still, and let go at one instant, so that no start-up is measured."""

import signal
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import redis
from rq import suspension

from bench.figures import BenchError
from ops.local import processes
from ops.local.processes import Command

READY_TIMEOUT_S = 60.0
# A suspended worker looks once a second whether it still is. Stopped for longer than that, it looks at once when it
# is let go; without this, workers would begin at different moments of the first second.
HELD_S = 1.2


class Crew:
    """Some workers. Use it as a context manager: they are registered, suspended and stopped when it is entered."""

    def __init__(self, client: redis.Redis, workers: Sequence[Command]) -> None:
        self._client = client
        self._workers = workers

    def __enter__(self) -> Self:
        """Launch them and wait until they wait.

        Raises:
            BenchError: one of them does not get that far.
        """
        try:
            suspension.suspend(self._client)
            for worker in self._workers:
                worker.launch()
            if not processes.wait_for(self._have_settled, READY_TIMEOUT_S) or not self._are_suspended():
                raise BenchError("; ".join(f"{each.spec.name}: {each.complaint()}" for each in self._workers))
            self._send(signal.SIGSTOP)
            time.sleep(HELD_S)
            suspension.resume(self._client)
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have them stop."""
        self._dismiss()

    def let_go(self) -> float:
        """Let all of them work; return that instant of the monotonic clock."""
        now = time.monotonic()
        self._send(signal.SIGCONT)
        return now

    def _have_settled(self) -> bool:
        return self._are_suspended() or not all(worker.is_running for worker in self._workers)

    def _are_suspended(self) -> bool:
        names = self._client.smembers("rq:workers")
        states = [self._client.hget(name, "state") for name in names]
        return states == [b"suspended"] * len(self._workers)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.send(number)

    def _dismiss(self) -> None:
        self._send(signal.SIGCONT)
        self._send(signal.SIGTERM)
        for worker in self._workers:
            if not worker.wait(worker.spec.stop_timeout_s):
                worker.kill()
            worker.forget()
