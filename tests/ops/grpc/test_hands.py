"""The threads that answer, by themselves: as many as there are calls, up to a bound; what the system has to give."""

import threading
from typing import Any

import pytest

from observe import background
from ops.grpc.hands import Hands
from tests.api.waiters import wait_for

PATIENCE_S = 30.0


def names(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == name]


def test_there_are_as_many_threads_as_calls_up_to_a_bound_and_they_stay() -> None:
    pool, gate = Hands(2, name="bounded"), threading.Event()
    taken = [pool.submit(gate.wait, PATIENCE_S)]
    assert (pool.in_hand, len(names("bounded"))) == (1, 1)
    taken += [pool.submit(gate.wait, PATIENCE_S) for _ in range(4)]
    assert (pool.in_hand, len(names("bounded"))) == (5, 2)
    gate.set()
    for each in taken:
        each.result(PATIENCE_S)
    assert pool.in_hand == 0
    pool.submit(lambda: None).result(PATIENCE_S)
    assert len(names("bounded")) == 2


def test_a_call_that_raises_costs_no_thread() -> None:
    pool = Hands(1, name="raising")

    def fail() -> None:
        raise ZeroDivisionError

    pool.submit(fail).result(PATIENCE_S)
    pool.submit(lambda: None).result(PATIENCE_S)
    assert (pool.in_hand, len(names("raising"))) == (0, 1)


def test_without_a_thread_to_have_calls_wait_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has none to give must not end grpcio's own thread, in which this happens."""
    pool = Hands(2, name="scarce")
    reported: list[str] = []

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuse)
        scarce.setattr(background, "report", lambda task, _error: reported.append(task))
        waiting = pool.submit(lambda: None)
    assert reported == ["grpc_calls"]
    assert not waiting.done()
    pool.submit(lambda: None).result(PATIENCE_S)
    waiting.result(PATIENCE_S)
    assert pool.in_hand == 0


def test_what_is_awaited_is_looked_after_once_there_is_a_thread_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, cancelled = Hands(1, silence_s=0.0), threading.Event()

    class Silent:
        at = 0.0
        cancel = staticmethod(cancelled.set)

    silent: Any = Silent()
    with monkeypatch.context() as scarce:
        scarce.setattr(background, "start", lambda *_: None)
        pool.expect(silent)
    assert not cancelled.is_set()
    pool.expect(silent)
    wait_for(cancelled.is_set)
    pool.forget(silent)
