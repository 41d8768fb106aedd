"""The circuit breaker: one caller pays for a fault, and one at a time finds out whether it is over."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from models.redis_line.circuit import OPEN_S, Circuit


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(open_s=10.0, clock=clock)


def test_as_long_as_nothing_fails_everybody_may(circuit: Circuit) -> None:
    assert [circuit.allows() for _ in range(3)] == [True, True, True]
    circuit.succeeded()
    assert circuit.allows()


def test_after_a_fault_nobody_may_until_the_pause_is_over(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    assert not circuit.allows()
    clock.now_s += 9.9
    assert not circuit.allows()
    clock.now_s += 0.1
    assert circuit.allows()


def test_one_probe_at_a_time(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.now_s += 10.0
    assert [circuit.allows() for _ in range(5)] == [True, False, False, False, False]


def test_of_many_threads_one_is_the_probe(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.now_s += 10.0
    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(lambda _: circuit.allows(), range(200)))
    assert sum(allowed) == 1


def test_a_probe_that_succeeds_closes_it(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.now_s += 10.0
    assert circuit.allows()
    circuit.succeeded()
    assert [circuit.allows() for _ in range(3)] == [True, True, True]


def test_a_probe_that_fails_begins_the_pause_anew(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.now_s += 10.0
    assert circuit.allows()
    clock.now_s += 5.0  # it took so long to fail
    circuit.failed()
    clock.now_s += 9.9
    assert not circuit.allows()
    clock.now_s += 0.1
    assert circuit.allows()


def test_a_probe_that_never_comes_back_is_followed_by_another(circuit: Circuit, clock: Clock) -> None:
    circuit.failed()
    clock.now_s += 10.0
    assert circuit.allows()
    clock.now_s += 10.0
    assert circuit.allows()


def test_a_pause_is_short_against_the_relays_promise_of_seconds() -> None:
    assert 0 < OPEN_S <= 2
