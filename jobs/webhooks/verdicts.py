"""What follows from an attempt: pure policy."""

import email.utils
from datetime import UTC, datetime
from http import HTTPStatus

from jobs.retries import RetryPolicy
from models.webhooks.deliveries import Status, Verdict

# A receiver that wants to hear nothing for longer than this is asked again all the same.
MOST_QUIET_S = 86_400.0
_WAITS = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


def judge(
    http_status: int | None, retry_after: str | None, *, attempts: int, policy: RetryPolicy | None, now: datetime
) -> Verdict:
    """Say what follows.

    Args:
        http_status: of the answer; None: there was none.
        retry_after: as it came with the answer.
        attempts: how many there were, with this one.
        policy: when another attempt follows; None: never.
        now: by which Retry-After is reckoned.
    """
    if http_status is not None and is_success(http_status):
        return Verdict(status=Status.DELIVERED)
    is_gone = http_status == HTTPStatus.GONE
    quiet_s = read_retry_after(retry_after, now) if http_status in _WAITS else None
    delay_s = policy.delay_after(attempts) if policy else None
    if delay_s is None:
        return Verdict(status=Status.FAILED, quiet_s=quiet_s, is_gone=is_gone)
    return Verdict(status=Status.PENDING, next_in_s=max(delay_s, quiet_s or 0.0), quiet_s=quiet_s, is_gone=is_gone)


def is_success(http_status: int) -> bool:
    """Whether an answer of this status says that it has been delivered: 2xx."""
    return HTTPStatus.OK <= http_status < HTTPStatus.MULTIPLE_CHOICES


def read_retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds that Retry-After asks for (RFC 9110, 10.2.3), bounded; None: it asks for none."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), MOST_QUIET_S)
    try:
        instant = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return min(max(0.0, (instant - now).total_seconds()), MOST_QUIET_S)
