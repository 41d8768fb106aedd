"""What runs beside requests and jobs, in threads that nobody waits for: it lives on, whatever happens in it.

A thread that has died of an error looks like one with nothing to do: jobs are no longer put on the queue, or what is
lost stays lost, and all else seems well. So each is started here, survives any exception, is counted by name, and goes
on after a pause.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from observe import metrics

# Between a fault and going on: short enough to be missed by nobody, long enough not to fill logs with one defect.
PAUSE_S = 1.0

_log = structlog.get_logger("background")


def start(task: str, body: Callable[[], object]) -> threading.Thread | None:
    """Run something in a thread until it returns; should it raise, it is reported, and begins again after a pause.

    Args:
        task: one of :data:`observe.metrics.TASKS`.
        body: goes on where it was when it is called again.

    Returns:
        The thread; None: the system has none to give, which is reported, too.
    """

    def run() -> None:
        while True:
            try:
                body()
            except Exception as error:  # noqa: BLE001 - whatever it is, see above
                report(task, error)
                time.sleep(PAUSE_S)
            else:
                return

    thread = threading.Thread(target=run, name=task.replace("_", " "), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        report(task, error)
        return None
    return thread


@contextmanager
def guarded(task: str) -> Iterator[None]:
    """Report what a task raises, and let it go no further."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, see above
        report(task, error)


def report(task: str, error: Exception) -> None:
    """Count and log a fault that nobody foresaw. Raises nothing, not even on a disk that is full."""
    with suppress(Exception):
        metrics.background_faults[task].inc()
    with suppress(Exception):
        _log.error("background task fails", task=task, exc_info=error)
