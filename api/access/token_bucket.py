"""Token buckets shared by all processes and machines: a strategy for limits and flask-limiter, which have none.

A bucket holds ``burst`` tokens, gains one each interval, and every request takes one. It is kept in Redis as one
number, the instant at which it will be full again, and taken from in one Lua call by Redis's own clock, so the clocks
of the machines that share it do not matter. While Redis is away, or has no memory, each process has buckets of its own,
a bounded number of them.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import redis
import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import STRATEGIES, RateLimiter
from limits.util import WindowStats

from models.redis_line.circuit import Circuit
from models.redis_line.line import Command, RedisLine, Script

NAME = "token-bucket"
SCHEME = "wallet-buckets"
TAKE = Script.read(Path(__file__).parent / "lua" / "token_bucket.lua")
# Buckets of one process while Redis is away; beyond them the one that was used least lately is forgotten, which is to
# say full again.
MOST_LOCAL = 10_000

_log = structlog.get_logger("limits")


class Bucket(RateLimitItemPerSecond):
    """A limit: ``amount`` a period of so many seconds, and ``burst`` of them at once."""

    __slots__ = ("burst", "full_after_s", "interval_us", "name", "policy")
    GRANULARITY = RateLimitItemPerSecond.GRANULARITY

    def __init__(self, name: str, amount: int, period_s: int, burst: int) -> None:
        super().__init__(amount, period_s, namespace=name)
        self.name = name
        self.burst = burst
        # Whole, see token_bucket.lua; so nobody is given more than one a microsecond.
        self.interval_us = max(1, round(period_s * 1_000_000 / amount))
        self.full_after_s = math.ceil(burst * self.interval_us / 1_000_000)
        # As draft-ietf-httpapi-ratelimit-headers-10 spells it: so many in the time that an empty one needs to be full.
        self.policy = f'"{name}";q={burst};w={self.full_after_s}'


class Taken(NamedTuple):
    """What became of taking a token."""

    allowed: bool
    left: int
    wait_us: int  # until there is one more; 0 if it is full
    full_us: int  # until the bucket is full again


class BucketStorage(Storage):
    """Where the buckets are: in Redis, and in this process while Redis does not answer."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - as the base class has it

    def __init__(self, uri: str | None = None, *, line: RedisLine, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self.line = line
        self.circuit = Circuit()
        self.local = LocalBuckets()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What its faults are."""
        return redis.RedisError

    def check(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self.line.ask(("PING",)))
        except redis.RedisError:
            return False

    def reset(self) -> int | None:
        """Not offered: it would have to look through all keys."""
        raise NotImplementedError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not offered: these are no counters."""
        raise NotImplementedError

    get = get_expiry = clear = incr  # type: ignore[assignment]


class TokenBucket(RateLimiter):
    """The strategy. It keeps no state of its own, so that one serves all threads."""

    storage: BucketStorage

    def take(
        self, item: RateLimitItem, *identifiers: str, riders: Sequence[Command] = (), look: bool = False
    ) -> tuple[Taken, list[Any] | None]:
        """Take a token, and let other questions ride along in the same round trip.

        Args:
            item: a :class:`Bucket`.
            identifiers: whose.
            riders: further commands for the same Redis.
            look: only see what taking one would come to.

        Returns:
            What became of it, and the riders' replies; None: Redis did not answer.
        """
        if not isinstance(item, Bucket):
            raise TypeError("this strategy has buckets, not windows")
        key = f"wallet:{NAME}:{item.name}:{':'.join(identifiers)}"
        storage = self.storage
        if storage.circuit.allows():
            command = TAKE.call([key], item.interval_us, item.burst, "look" if look else "take")
            try:
                said, *replies = storage.line.ask(command, *riders)
            except redis.RedisError as error:
                storage.circuit.failed()
                _log.warning("redis does not answer, limits hold per process", cause=type(error).__name__)
            else:
                storage.circuit.succeeded()
                if said:
                    return Taken(bool(said[0]), *said[1:]), replies
                # It answers, and takes nothing: full, or a replica.
                return storage.local.take(key, item, look=look), replies
        return storage.local.take(key, item, look=look), None

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take a token; whether there was one.

        Raises:
            ValueError: for any other cost: some tokens would be taken in vain.
        """
        if cost != 1:
            raise ValueError("a request costs one token")
        return self.take(item, *identifiers)[0].allowed

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether there are as many tokens."""
        return self.take(item, *identifiers, look=True)[0].left >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the bucket will be full, and what is left in it."""
        taken, _ = self.take(item, *identifiers, look=True)
        return WindowStats(time.time() + taken.full_us / 1_000_000, taken.left)


STRATEGIES[NAME] = TokenBucket  # type: ignore[assignment]


@dataclass(slots=True)
class LocalBuckets:
    """The same buckets in memory, for one process: no more than :data:`MOST_LOCAL` of them."""

    clock_ns: Callable[[], int] = time.monotonic_ns
    _lock: Lock = field(default_factory=Lock)
    _full_at_us: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def take(self, key: str, bucket: Bucket, *, look: bool = False) -> Taken:
        """Take a token, as token_bucket.lua does."""
        now, interval_us = self.clock_ns() // 1_000, bucket.interval_us
        most = now + bucket.burst * interval_us
        with self._lock:
            kept = self._full_at_us.get(key, now)
            full_at = min(max(kept, now), most)
            room = most - full_at
            allowed = room >= interval_us
            takes = allowed and not look
            if takes:
                full_at, room = full_at + interval_us, room - interval_us
            if takes or kept > most:
                self._keep(key, full_at)
        wait_us = interval_us - room % interval_us if full_at > now else 0
        return Taken(allowed, room // interval_us, wait_us, full_at - now)

    def _keep(self, key: str, full_at_us: int) -> None:
        self._full_at_us[key] = full_at_us
        self._full_at_us.move_to_end(key)
        if len(self._full_at_us) > MOST_LOCAL:
            self._full_at_us.popitem(last=False)
