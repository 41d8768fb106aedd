"""What follows from an attempt."""

from datetime import UTC, datetime

import pytest

from jobs.retries import RetryPolicy
from jobs.webhooks.verdicts import MOST_QUIET_S, judge, read_retry_after
from models.webhooks.deliveries import Status, Verdict

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
POLICY = RetryPolicy((5.0, 300.0), spread=lambda: 0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_only_2xx_is_success(status: int) -> None:
    assert judge(status, None, attempts=1, policy=POLICY, now=NOW) == Verdict(status=Status.DELIVERED)


@pytest.mark.parametrize("status", [None, 101, 199, 300, 301, 302, 304, 307, 308, 400, 404, 429, 500, 502, 503, 504])
def test_whatever_else_is_tried_again_by_the_schedule(status: int | None) -> None:
    assert judge(status, None, attempts=1, policy=POLICY, now=NOW) == Verdict(status=Status.PENDING, next_in_s=5.0)
    assert judge(status, None, attempts=2, policy=POLICY, now=NOW) == Verdict(status=Status.PENDING, next_in_s=300.0)
    assert judge(status, None, attempts=3, policy=POLICY, now=NOW) == Verdict(status=Status.FAILED)
    assert judge(status, None, attempts=1, policy=None, now=NOW) == Verdict(status=Status.FAILED)


def test_410_says_never_again() -> None:
    assert judge(410, None, attempts=1, policy=POLICY, now=NOW).is_gone


@pytest.mark.parametrize("status", [429, 503])
def test_who_asks_for_time_is_given_it_unless_the_schedule_is_slower(status: int) -> None:
    asked = judge(status, "60", attempts=1, policy=POLICY, now=NOW)
    assert asked == Verdict(status=Status.PENDING, next_in_s=60.0, quiet_s=60.0)
    assert judge(status, "60", attempts=2, policy=POLICY, now=NOW).next_in_s == 300.0
    assert judge(500, "60", attempts=1, policy=POLICY, now=NOW).next_in_s == 5.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-1", None), ("1.5", None), ("0", 0.0), (" 120 ", 120.0),
        ("9" * 400, MOST_QUIET_S), ("Mon, 30 Nov 2026 12:02:00 GMT", 120.0), ("Mon, 30 Nov 2026 12:02:00 -0000", 120.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0), ("Tue, 30 Nov 2027 12:00:00 GMT", MOST_QUIET_S), ("\u0663", None),
        ("Mon, 30 Nov 2026 99999999999999999999:00:00 GMT", None),
        ("Mon, 30 Nov 2026 12:00:00 +99999999999999999999", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_an_instant_and_bounded(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds
