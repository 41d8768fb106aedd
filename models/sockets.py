"""Waiting for sockets that others opened: under threads by poll, under greenlets without stopping the process.

The API runs on gevent, which replaces Python's blocking calls before anything else is imported; a driver in C is asked
to wait here instead. Workers and commands run on threads, and never import gevent.
"""

import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

# Connections whose servers may be silent for longer than all others', in seconds.
patience: WeakKeyDictionary[object, float] = WeakKeyDictionary()

_monkey = sys.modules.get("gevent.monkey")
RUNS_ON_GREENLETS = _monkey is not None and bool(_monkey.is_module_patched("select"))


def _wait_by_poll(fileno: int, timeout_s: float, *, for_writing: bool) -> bool:
    poller = select.poll()
    poller.register(fileno, select.POLLOUT if for_writing else select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


if RUNS_ON_GREENLETS:
    from gevent.monkey import get_original
    from gevent.socket import wait_read, wait_write

    class _TimeIsUpError(Exception):
        pass

    def _wait_by_hub(fileno: int, timeout_s: float, *, for_writing: bool) -> bool:
        try:
            (wait_write if for_writing else wait_read)(fileno, timeout_s, _TimeIsUpError)
        except _TimeIsUpError:
            return False
        return True

    # Returns whether a socket became readable (or writable) within this many seconds, which must be more than none.
    wait_until_ready: Callable[..., bool] = _wait_by_hub
    # It is asked for what is there now, and never waits: gevent's would go through its loop for that.
    _poll = get_original("select", "poll")
else:
    wait_until_ready = _wait_by_poll
    _poll = select.poll


@contextmanager
def more_patient(connection: object, silence_s: float) -> Iterator[None]:
    """Let the server of one connection, a driver's, be silent for longer than any other for as long as this lasts."""
    patience[connection] = silence_s
    try:
        yield
    finally:
        del patience[connection]


def watch(fileno: int) -> Callable[[], bool]:
    """Return what tells, without waiting, whether there is something to read.

    On a connection that nobody uses, that can only be goodbye.
    """
    poller = _poll()
    poller.register(fileno, select.POLLIN)
    return lambda: bool(poller.poll(0))
