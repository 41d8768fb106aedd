"""Who asks too often is told to wait: a bucket per user for everything, one per address for bad credentials."""

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
# Bad credentials from one address: a password may be mistyped, and cannot be guessed.
AUTHENTICATION = Bucket("authentication", 10, 60, burst=20)


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

    def check_address(self, environ: dict[str, Any], address: str) -> None:
        """Refuse to look at the credentials of an address that has sent too many bad ones.

        Raises:
            ApiError: ``rate_limited``.
        """
        self._authenticate(environ, address, look=True)

    def count_bad_credentials(self, environ: dict[str, Any], address: str) -> None:
        """Count bad credentials of an address.

        Raises:
            ApiError: ``rate_limited``: they were too many.
        """
        self._authenticate(environ, address, look=False)

    def _authenticate(self, environ: dict[str, Any], address: str, *, look: bool) -> None:
        if self._strategy is not None:
            taken, _ = self._strategy.take(AUTHENTICATION, _source(address), look=look)
            if not (look and taken.allowed):
                _tell(environ, AUTHENTICATION, taken)
            if not taken.allowed:
                metrics.throttled["authentication"].inc()
                _refuse("There were too many bad credentials from your address.", taken)


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


def _refuse(detail: str, taken: Taken) -> NoReturn:
    raise ApiError("rate_limited", detail, {"Retry-After": str(max(1, math.ceil(taken.wait_us / 1_000_000)))})
