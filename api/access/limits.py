"""Who asks too often is told to wait.

A user has a bucket for everything. An address has one for bad credentials of users, and one for wrong passwords of
administrators: what is guessed at by many is no reason to doubt the few.
"""

import ipaddress
import math
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, NoReturn

from api.access.token_bucket import Bucket, Taken, TokenBucket
from api.calls.call import Call
from api.calls.problems import ApiError
from config import Settings
from models.redis_line.line import Command
from observe import metrics

_IPV6_PREFIX = 64
# From one address: credentials may be wrong and a password mistyped, and neither can be guessed.
AUTHENTICATION = Bucket("authentication", 10, 60, burst=20)
PASSWORDS = Bucket("password", 10, 60, burst=20)


class Limits:
    """The limits of one process. ``None`` for a user's bucket: nothing is throttled."""

    def __init__(self, strategy: TokenBucket | None, users: Bucket | None) -> None:
        self._strategy = strategy
        self._users = users

    @property
    def are_off(self) -> bool:
        """Whether nothing is throttled."""
        return self._strategy is None

    def take(self, call: Call, user: str, question: Command | None = None) -> tuple[Any, float] | None:
        """Take a token of a user's bucket, and ask the cache in the same round trip.

        Args:
            call: whose answer tells how the bucket stands.
            user: whose.
            question: for the cache, if it is in the same Redis.

        Returns:
            The reply to the question and when it was asked; None: it was not asked, or not answered.

        Raises:
            ApiError: ``rate_limited``.
        """
        if self._strategy is None or self._users is None:
            return None
        sent_at = time.monotonic()
        taken, replies = self._strategy.take(self._users, user, riders=() if question is None else (question,))
        _tell(call, self._users, taken)
        if not taken.allowed:
            metrics.throttled["user"].inc()
            _refuse("You ask too often.", taken)
        return (replies[0], sent_at) if replies else None

    def count_bad_credentials(self, call: Call) -> None:
        """Count bad credentials of a user, by the address that they come from.

        Raises:
            ApiError: ``rate_limited``: they were too many.
        """
        if self._strategy is not None:
            taken, _ = self._strategy.take(AUTHENTICATION, _source(call.find_address()))
            _tell(call, AUTHENTICATION, taken)
            _refuse_guess(AUTHENTICATION, "There were too many bad credentials from your address.", taken)

    def count_password(self, call: Call, *, is_right: bool) -> None:
        """Count an administrator's password that was tried, by the address that it comes from, if it is wrong.

        Where there were too many, one that is right is refused as well, and in the same words: who guesses must not be
        told that he has guessed right. It is compared before anything is counted, and then asked for or counted in one
        step: of guesses that are tried at the same time no more are answered than there are tokens.

        Raises:
            ApiError: ``rate_limited``: there were too many wrong ones.
        """
        if self._strategy is not None:
            taken, _ = self._strategy.take(PASSWORDS, _source(call.find_address()), look=is_right)
            if not (is_right and taken.allowed):
                _tell(call, PASSWORDS, taken)
            _refuse_guess(PASSWORDS, "There were too many wrong passwords from your address.", taken)


def make_limits(settings: Settings, make_strategy: Callable[[], TokenBucket]) -> Limits:
    """Throttle as the settings say; the strategy, which has the buckets, is made only if there is anything to it."""
    rate = settings.rate_limit
    if rate is None:
        return Limits(None, None)
    return Limits(make_strategy(), Bucket("user", rate.amount, rate.period_s, burst=rate.burst))


def _source(address: str) -> str:
    """Return whom an address stands for: of IPv6 everybody has at least 2^64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    # As a socket that listens for both kinds spells an IPv4 peer: all of them are in one network of that size.
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    # By its number, for an address may have a zone (fe80::1%eth0), which a network may not.
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_PREFIX), strict=False))


def _tell(call: Call, bucket: Bucket, taken: Taken) -> None:
    """Write the headers of draft-ietf-httpapi-ratelimit-headers-10."""
    call.tell("RateLimit-Policy", bucket.policy)
    until_more_s = -(-taken.wait_us // 1_000_000)
    call.tell("RateLimit", f'"{bucket.name}";r={taken.left};t={until_more_s}')


def _refuse_guess(bucket: Bucket, detail: str, taken: Taken) -> None:
    if not taken.allowed:
        metrics.throttled[bucket.name].inc()
        _refuse(detail, taken)


def _refuse(detail: str, taken: Taken) -> NoReturn:
    raise ApiError("rate_limited", detail, {"Retry-After": str(max(1, math.ceil(taken.wait_us / 1_000_000)))})
