"""When a failed attempt is followed by another: n delays make n + 1 attempts."""

import pytest

from jobs.retries import JITTER, RetryPolicy


@pytest.mark.parametrize(
    ("delays_s", "attempts", "delay_s"),
    [
        ((1.0, 5.0, 25.0), 1, 1.0),
        ((1.0, 5.0, 25.0), 2, 5.0),
        ((1.0, 5.0, 25.0), 3, 25.0),
        ((1.0, 5.0, 25.0), 4, None),
        ((1.0, 5.0, 25.0), 5, None),  # somebody shortened the list meanwhile
        ((0.25,), 1, 0.25),
        ((0.25,), 2, None),
        ((0.0,), 1, 0.0),
        ((), 1, None),
    ],
)
def test_each_failed_attempt_has_its_delay(delays_s: tuple[float, ...], attempts: int, delay_s: float | None) -> None:
    assert RetryPolicy(delays_s, spread=lambda: 0.0).delay_after(attempts) == delay_s


@pytest.mark.parametrize(("spread", "delay_s"), [(-1.0, 8.0), (-0.5, 9.0), (0.0, 10.0), (0.5, 11.0), (1.0, 12.0)])
def test_delays_are_spread_by_a_fifth_either_way(spread: float, delay_s: float) -> None:
    assert JITTER == 0.2
    assert RetryPolicy((10.0,), spread=lambda: spread).delay_after(1) == pytest.approx(delay_s)


def test_what_failed_together_is_not_tried_together() -> None:
    delays_s = {RetryPolicy((10.0,)).delay_after(1) for _ in range(50)}
    assert len(delays_s) > 40
    assert all(each is not None and 8.0 <= each <= 12.0 for each in delays_s)


def test_n_delays_make_n_plus_1_attempts() -> None:
    policy = RetryPolicy((0.0,) * 7)
    attempts = 1
    while policy.delay_after(attempts) is not None:
        attempts += 1
    assert attempts == 8
