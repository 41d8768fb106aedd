"""Worker processes that are ready, held still, and let go at one instant, so that no start-up is measured."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import redis
from rq import suspension

from bench.figures import BenchError
from ops.local import processes
from ops.local.processes import Command

READY_TIMEOUT_S = 60.0
# Where RQ registers workers.
WORKERS = "rq:workers"
# A suspended worker looks once a second whether it still is. Stopped for longer than that, it looks at once when it
# is let go; without this, workers would begin at different moments of the first second.
HELD_S = 1.2


@contextmanager
def at_work(
    client: redis.Redis, workers: Sequence[Command], *, count: Callable[[], int] | None = None
) -> Iterator[None]:
    """Have workers run beside something else, from when all of them are ready until the end of it.

    Args:
        client: of Redis.
        workers: to be launched.
        count: returns how many are ready; None: RQ is asked.

    Raises:
        BenchError: one of them does not get ready.
    """
    before = client.smembers(WORKERS)

    def are_registered() -> bool:
        ready = count() if count else len(client.smembers(WORKERS) - before)
        return ready == len(workers)

    def are_running() -> bool:
        return all(worker.is_running for worker in workers)

    try:
        for worker in workers:
            worker.launch()
        processes.wait_for(lambda: are_registered() or not are_running(), READY_TIMEOUT_S)
        if not are_registered() or not are_running():
            raise BenchError("; ".join(f"{each.spec.name}: {each.complaint()}" for each in workers))
        yield
    finally:
        dismiss(workers)


@contextmanager
def held_still(workers: Sequence[Command]) -> Iterator[None]:
    """Stop workers in their tracks for a moment."""
    send(workers, signal.SIGSTOP)
    try:
        yield
    finally:
        send(workers, signal.SIGCONT)


def send(workers: Sequence[Command], number: signal.Signals) -> None:
    """Signal all of them."""
    for worker in workers:
        worker.send(number)


def dismiss(workers: Sequence[Command]) -> None:
    """Have all of them stop."""
    send(workers, signal.SIGCONT)
    send(workers, signal.SIGTERM)
    for worker in workers:
        if not worker.wait(worker.spec.stop_timeout_s):
            worker.kill()
        worker.forget()


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
            send(self._workers, signal.SIGSTOP)
            time.sleep(HELD_S)
            suspension.resume(self._client)
        except BaseException:
            dismiss(self._workers)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have them stop."""
        dismiss(self._workers)

    def let_go(self) -> float:
        """Let all of them work; return that instant of the monotonic clock."""
        now = time.monotonic()
        send(self._workers, signal.SIGCONT)
        return now

    def _have_settled(self) -> bool:
        return self._are_suspended() or not all(worker.is_running for worker in self._workers)

    def _are_suspended(self) -> bool:
        names = self._client.smembers(WORKERS)
        states = [self._client.hget(name, "state") for name in names]
        return states == [b"suspended"] * len(self._workers)
