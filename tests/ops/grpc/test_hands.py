"""The threads that answer, by themselves: as many as there are calls, up to a bound; what the system has to give."""

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from models import company
from observe import background
from ops.grpc.hands import Hands
from ops.local.processes import wait_for
from tests.patience import PATIENCE_S


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


def test_while_all_threads_are_held_up_there_are_more_and_then_fewer_again() -> None:
    pool, gate = Hands(1, most=3, name="relieved"), threading.Event()
    # The first call with a message that is awaited has this looked after; here there is none.
    threading.Thread(target=pool._look_after, daemon=True).start()
    held = [pool.submit(gate.wait, PATIENCE_S) for _ in range(5)]
    assert wait_for(lambda: len(names("relieved")) == 3, PATIENCE_S)
    assert not wait_for(lambda: len(names("relieved")) > 3, 0.3)
    gate.set()
    for each in held:
        each.result(PATIENCE_S)
    assert wait_for(lambda: len(names("relieved")) == 1, PATIENCE_S)
    pool.submit(lambda: None).result(PATIENCE_S)


def test_what_comes_at_the_same_time_is_answered_by_one_thread_which_asks_for_all_of_it() -> None:
    class Oracle:
        heard: ClassVar[list[int]] = []

        def answer_together(self, questions: Sequence[Any]) -> Sequence[Any]:
            self.heard.append(len(questions))
            return questions

    pool, gate, oracle = Hands(1, together=8, name="company"), threading.Event(), Oracle()
    first = pool.submit(gate.wait, PATIENCE_S)
    others = [pool.submit(company.ask, oracle, number) for number in range(10)]
    gate.set()
    for each in (first, *others):
        each.result(PATIENCE_S)
    assert sum(oracle.heard) == 10
    assert max(oracle.heard) == 8


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
    pool, cancelled = Hands(1), threading.Event()

    class Silent:
        at = 0.0
        cancel = staticmethod(cancelled.set)

    silent: Any = Silent()
    with monkeypatch.context() as scarce:
        scarce.setattr(background, "start", lambda *_: None)
        pool.expect(silent)
    assert not cancelled.is_set()
    pool.expect(silent)
    assert wait_for(cancelled.is_set, PATIENCE_S)
    pool.forget(silent)
