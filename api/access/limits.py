"""Who asks too often is told to wait.

A user has a bucket for everything. An address has one for bad credentials of users, and one for wrong passwords of
administrators: what is guessed at by many is no reason to doubt the few.
"""

import ipaddress
import math
import time
from ipaddress import IPv4Address
from typing import Any, NoReturn, cast

from flask import Flask
from flask_limiter import Limiter

from api.access.token_bucket import NAME, SCHEME, Bucket, Taken, TokenBucket
from api.edge.edge import add_header
from api.edge.errors import ApiError
from config import Settings
from models.redis_line.line import Command, RedisLine
from observe import metrics

_IPV6_PREFIX = 64
# From one address: credentials may be wrong and a password mistyped, and neither can be guessed.
AUTHENTICATION = Bucket("authentication", 10, 60, burst=20)
PASSWORDS = Bucket("password", 10, 60, burst=20)


class Limits:
    """The limits of one application. ``None`` for a user's bucket: nothing is throttled."""

    def __init__(self, strategy: TokenBucket | None, users: Bucket | None) -> None:
        self._strategy = strategy
        self._users = users

    @property
    def are_off(self) -> bool:
        """Whether nothing is throttled."""
        return self._strategy is None

    def take(self, environ: dict[str, Any], user: str, question: Command | None = None) -> tuple[Any, float] | None:
        """Take a token of a user's bucket, and ask the cache in the same round trip.

        Args:
            environ: of the request, whose answer tells how the bucket stands.
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
        _tell(environ, self._users, taken)
        if not taken.allowed:
            metrics.throttled["user"].inc()
            _refuse("You ask too often.", taken)
        return (replies[0], sent_at) if replies else None

    def count_bad_credentials(self, environ: dict[str, Any], address: str) -> None:
        """Count bad credentials of a user, who comes from this address.

        Raises:
            ApiError: ``rate_limited``: they were too many.
        """
        if self._strategy is not None:
            taken, _ = self._strategy.take(AUTHENTICATION, _source(address))
            _tell(environ, AUTHENTICATION, taken)
            _refuse_guess(AUTHENTICATION, "There were too many bad credentials from your address.", taken)

    def count_password(self, environ: dict[str, Any], address: str, *, is_right: bool) -> None:
        """Count an administrator's password that was tried from this address, if it is wrong.

        Where there were too many, one that is right is refused as well, and in the same words: who guesses must not be
        told that he has guessed right. It is compared before anything is counted, and then asked for or counted in one
        step: of guesses that are tried at the same time no more are answered than there are tokens.

        Raises:
            ApiError: ``rate_limited``: there were too many wrong ones.
        """
        if self._strategy is not None:
            taken, _ = self._strategy.take(PASSWORDS, _source(address), look=is_right)
            if not (is_right and taken.allowed):
                _tell(environ, PASSWORDS, taken)
            _refuse_guess(PASSWORDS, "There were too many wrong passwords from your address.", taken)


def install(app: Flask, settings: Settings, line: RedisLine) -> Limits:
    """Throttle an application as its settings say, by buckets at the other end of the line."""
    rate = settings.rate_limit
    if rate is None:
        return Limits(None, None)
    limiter = Limiter(
        lambda: "",
        strategy=NAME,
        storage_uri=f"{SCHEME}://",
        storage_options={"line": line},  # type: ignore[dict-item]
    )
    # flask-limiter holds the strategy and its storage. To evaluate limits by route, method and condition, as it would
    # before and after each request, costs more than the round trip to Redis; here is one limit, whose token is taken
    # when it is known whose (identity.py). To an application that has it already it adds no hooks.
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    users = Bucket("user", rate.amount, rate.period_s, burst=rate.burst)
    return Limits(cast("TokenBucket", limiter.limiter), users)


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


def _tell(environ: dict[str, Any], bucket: Bucket, taken: Taken) -> None:
    """Write the headers of draft-ietf-httpapi-ratelimit-headers-10."""
    add_header(environ, "RateLimit-Policy", bucket.policy)
    until_more_s = -(-taken.wait_us // 1_000_000)
    add_header(environ, "RateLimit", f'"{bucket.name}";r={taken.left};t={until_more_s}')


def _refuse_guess(bucket: Bucket, detail: str, taken: Taken) -> None:
    if not taken.allowed:
        metrics.throttled[bucket.name].inc()
        _refuse(detail, taken)


def _refuse(detail: str, taken: Taken) -> NoReturn:
    raise ApiError("rate_limited", detail, {"Retry-After": str(max(1, math.ceil(taken.wait_us / 1_000_000)))})
