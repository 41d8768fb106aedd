"""Token buckets: the Lua script and its stand-in in memory against a model, and what holds while Redis is away."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from api.access.token_bucket import MOST_LOCAL, SCHEME, TAKE, Bucket, BucketStorage, LocalBuckets, Taken, TokenBucket
from models.redis_line.circuit import OPEN_S, Circuit
from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine, Script
from tests.api.waiters import wait_for
from tests.proxy import CountingProxy, TcpProxy

START_US = 1_800_000_000_000_000
YEAR_US = 365 * 86_400 * 1_000_000


class Limit(NamedTuple):
    """What RATE_LIMIT can say."""

    amount: int
    period_s: int
    burst: int

    def bucket(self) -> Bucket:
        return Bucket("user", *self[:2], burst=self.burst)


@dataclass
class Model:
    """A bucket as one would explain it: so many tokens, exact fractions of them included."""

    tokens: Fraction
    at_us: int

    def take(self, bucket: Bucket, now_us: int, *, look: bool) -> Taken:
        gained = Fraction(max(now_us - self.at_us, 0), bucket.interval_us)
        self.tokens, self.at_us = min(self.tokens + gained, Fraction(bucket.burst)), now_us
        allowed = self.tokens >= 1
        if allowed and not look:
            self.tokens -= 1
        missing_us = (bucket.burst - self.tokens) * bucket.interval_us
        wait_us = (1 - self.tokens % 1) * bucket.interval_us if missing_us else 0
        return Taken(allowed, math.floor(self.tokens), int(wait_us), int(missing_us))


class Step(NamedTuple):
    """A call, so many microseconds after the one before it."""

    later_us: int
    look: bool


LIMITS = st.builds(
    Limit,
    amount=st.integers(1, 999_999_999) | st.integers(1, 1_000),
    period_s=st.sampled_from([1, 60, 3_600]),
    burst=st.integers(1, 8) | st.integers(1, 1_000_000),
)
STEPS = st.lists(
    st.builds(Step, st.just(0) | st.integers(0, 3_000_000) | st.integers(0, 10_000_000_000), st.booleans()), max_size=25
)
# The server's clock is ours, and nothing is forgotten by the real one.
_ON_OUR_CLOCK = Script(
    TAKE.text.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}").replace("'PX', ", "'PX', 60000 + ")
)


@pytest.fixture(scope="module")
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Redis, to be emptied by whoever asks."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="module")
def on_our_clock(server: redis.Redis) -> Callable[[str, Bucket, int, bool], Taken]:
    """The script, told the time by us."""
    assert _ON_OUR_CLOCK.text.count("60000") == _ON_OUR_CLOCK.text.count("ARGV[5]") == 1

    def take(key: str, bucket: Bucket, now_us: int, look: bool) -> Taken:
        clock = (now_us // 1_000_000, now_us % 1_000_000)
        call = (bucket.interval_us, bucket.burst, "look" if look else "take", *clock)
        allowed, *rest = server.eval(_ON_OUR_CLOCK.text, 1, key, *call)
        return Taken(bool(allowed), *rest)

    return take


@pytest.fixture
def strategy(redis_client: redis.Redis, redis_url: str) -> Iterator[TokenBucket]:
    """The strategy on the real server, which is empty."""
    del redis_client
    line = RedisLine(connect_redis(redis_url), [TAKE])
    yield TokenBucket(BucketStorage(f"{SCHEME}://", line=line))
    line.close()


@pytest.fixture
def cut(redis_client: redis.Redis, redis_proxy: TcpProxy) -> Iterator[TokenBucket]:
    """The same through a proxy that can cut it off."""
    del redis_client
    line = RedisLine(connect_redis(redis_proxy.url, answer_timeout_s=0.2), [TAKE])
    yield TokenBucket(BucketStorage(f"{SCHEME}://", line=line))
    line.close()


HOUR = Bucket("user", 1, 3_600, burst=3)


@given(limit=LIMITS, steps=STEPS)
@example(limit=Limit(7, 1, 50), steps=[Step(0, look=False)] * 51)
@example(limit=Limit(999_999_999, 1, 999_999_999), steps=[Step(0, look=False)] * 3)
@example(limit=Limit(1, 3_600, 999_999), steps=[Step(0, look=False), Step(0, look=True)])
def test_script_and_stand_in_are_the_model(
    on_our_clock: Callable[[str, Bucket, int, bool], Taken], server: redis.Redis, limit: Limit, steps: list[Step]
) -> None:
    server.flushdb()
    bucket = limit.bucket()
    now_us = START_US
    model, local = Model(Fraction(limit.burst), now_us), LocalBuckets(clock_ns=lambda: now_us * 1_000)
    for step in steps:
        now_us += step.later_us
        expected = model.take(bucket, now_us, look=step.look)
        assert on_our_clock("bucket", bucket, now_us, step.look) == expected
        assert local.take("bucket", bucket, look=step.look) == expected


@given(limits=st.tuples(LIMITS, LIMITS), takes=st.integers(0, 10), back_us=st.integers(-YEAR_US, YEAR_US))
def test_whatever_is_kept_a_bucket_is_never_emptier_than_empty(
    on_our_clock: Callable[[str, Bucket, int, bool], Taken],
    server: redis.Redis,
    limits: tuple[Limit, Limit],
    takes: int,
    back_us: int,
) -> None:
    """Another limit after a restart, another server's clock after a failover: nobody is locked out for it."""
    server.flushdb()
    now_us = START_US
    before, after = limits
    local = LocalBuckets(clock_ns=lambda: now_us * 1_000)
    for _ in range(takes):
        on_our_clock("bucket", before.bucket(), now_us, False)
        local.take("bucket", before.bucket())
    now_us -= back_us
    bucket = after.bucket()
    found = on_our_clock("bucket", bucket, now_us, True)
    assert found == local.take("bucket", bucket, look=True)
    assert 0 <= found.left <= bucket.burst
    assert 0 <= found.wait_us <= bucket.interval_us
    assert found.full_us <= bucket.burst * bucket.interval_us
    now_us += found.wait_us
    assert on_our_clock("bucket", bucket, now_us, False).allowed
    assert local.take("bucket", bucket).allowed


def test_a_bucket_has_its_burst_and_then_nothing(strategy: TokenBucket) -> None:
    assert [strategy.take(HOUR, "1")[0][:2] for _ in range(5)] == [(True, 2), (True, 1), (True, 0), *[(False, 0)] * 2]
    refused, _ = strategy.take(HOUR, "1")
    assert 3_590_000_000 < refused.wait_us <= 3_600_000_000
    assert 3 * 3_590_000_000 < refused.full_us <= 3 * 3_600_000_000
    # Everyone has his own.
    assert strategy.take(HOUR, "2")[0].left == 2


def test_a_token_comes_back(strategy: TokenBucket) -> None:
    bucket = Bucket("user", 20, 1, burst=1)
    assert strategy.hit(bucket, "1")
    refused, _ = strategy.take(bucket, "1")
    assert (refused.allowed, refused.wait_us <= 50_000) == (False, True)
    wait_for(lambda: strategy.hit(bucket, "1"))


def test_a_look_takes_nothing(strategy: TokenBucket, redis_client: redis.Redis) -> None:
    for _ in range(5):
        assert strategy.take(HOUR, "1", look=True) == ((True, 3, 0, 0), [])
    assert redis_client.dbsize() == 0
    strategy.take(HOUR, "1")
    for _ in range(5):
        assert strategy.test(HOUR, "1", cost=2)
        assert not strategy.test(HOUR, "1", cost=3)
        assert strategy.get_window_stats(HOUR, "1").remaining == 2


def test_only_single_tokens_are_taken(strategy: TokenBucket) -> None:
    with pytest.raises(ValueError, match="one token"):
        strategy.hit(HOUR, "1", cost=2)
    assert strategy.test(HOUR, "1", cost=3)


def test_others_ride_along_in_the_same_round_trip(redis_client: redis.Redis, redis_url: str) -> None:
    redis_client.set("other", "seen")
    with CountingProxy.before(redis_url) as counted:
        line = RedisLine(connect_redis(counted.url), [TAKE])
        strategy = TokenBucket(BucketStorage(f"{SCHEME}://", line=line))
        # The server has learnt the script, and the line knows who it speaks with.
        assert strategy.take(HOUR, "1")[0].left == 2
        counted.sent.clear()
        taken, replies = strategy.take(HOUR, "1", riders=[("GET", "other"), ("PING",)])
        line.close()
    assert (taken.left, replies) == (1, [b"seen", b"PONG"])
    (message,) = counted.sent
    assert [message.count(command) for command in (b"EVALSHA", b"GET", b"PING")] == [1, 1, 1]


def test_a_bucket_that_is_full_again_is_not_kept(strategy: TokenBucket, redis_client: redis.Redis) -> None:
    strategy.take(HOUR, "1")
    (key,) = redis_client.keys()
    assert 3_590_000 < redis_client.pttl(key) <= 3_600_001
    strategy.take(HOUR, "1")
    assert 7_190_000 < redis_client.pttl(key) <= 7_200_001
    strategy.take(Bucket("quick", 1_000, 1, burst=5), "2")
    wait_for(lambda: redis_client.keys() == [key])


def test_a_changed_limit_takes_over_the_buckets_there_are(strategy: TokenBucket) -> None:
    for _ in range(4):
        strategy.take(HOUR, "1")
    loosened = Bucket("user", 1_000, 1, burst=5)
    wait_for(lambda: strategy.hit(loosened, "1"))
    tightened = Bucket("user", 1, 60, burst=1)
    assert [strategy.take(tightened, str(user))[0].allowed for user in (2, 2)] == [True, False]


def test_no_rate_is_too_large(strategy: TokenBucket) -> None:
    bucket = Bucket("user", 999_999_999, 1, burst=999_999_999)
    assert (bucket.interval_us, bucket.policy) == (1, '"user";q=999999999;w=1000')
    for _ in range(3):
        assert strategy.take(bucket, "1")[0].left >= 999_999_990


@pytest.mark.parametrize("fault", ["refuse", "hold"])
def test_without_redis_each_process_has_buckets_of_its_own_and_waits_once(
    cut: TokenBucket, redis_proxy: TcpProxy, fault: str
) -> None:
    now_s, bucket = 100.0, Bucket("user", 1, 3_600, burst=5)
    cut.storage.circuit = Circuit(clock=lambda: now_s)
    tries = 0
    ask = cut.storage.line.ask

    def count(*commands: object) -> object:
        nonlocal tries
        tries += 1
        return ask(*commands)  # type: ignore[arg-type]

    cut.storage.line.ask = count  # type: ignore[method-assign, assignment]
    assert cut.take(bucket, "1")[1] == []
    getattr(redis_proxy, fault)()
    tries = 0
    with capture_logs() as logs:
        taken = [cut.take(bucket, "1", riders=[("PING",)]) for _ in range(7)]
    # Full to begin with, for what Redis knows is not known here.
    assert [(each.allowed, each.left) for each, _ in taken] == [(True, left) for left in (4, 3, 2, 1, 0)] + [
        (False, 0)
    ] * 2
    assert {replies is None for _, replies in taken} == {True}
    assert (tries, len(logs)) == (1, 1)
    now_s += OPEN_S
    assert not cut.take(bucket, "1")[0].allowed
    assert tries == 2
    redis_proxy.resume()
    redis_proxy.refuse(refusing=False)
    assert not cut.take(bucket, "1")[0].allowed
    now_s += OPEN_S
    # Redis has still got what it knew; what it was asked in vain may have reached it all the same.
    again, replies = cut.take(bucket, "1", riders=[("PING",)])
    assert (again.allowed, again.left in {1, 2, 3}, replies) == (True, True, [b"PONG"])
    assert cut.take(bucket, "1")[1] == []


@pytest.mark.parametrize("setting", ["read only", "out of memory"])
def test_a_redis_that_refuses_to_write_throttles_nobody_wrongly(
    strategy: TokenBucket, redis_client: redis.Redis, setting: str
) -> None:
    if setting == "read only":
        redis_client.replicaof("127.0.0.1", "1")
    else:
        redis_client.config_set("maxmemory", "1")
    try:
        taken = [strategy.take(HOUR, "1", riders=[("PING",)]) for _ in range(4)]
    finally:
        redis_client.replicaof("no", "one")
        redis_client.config_set("maxmemory", "0")
    # By this process alone, and what rides along is answered.
    assert [(each.allowed, each.left) for each, _ in taken] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert [replies for _, replies in taken] == [[b"PONG"]] * 4


def test_a_process_keeps_a_bounded_number_of_buckets() -> None:
    local = LocalBuckets(clock_ns=lambda: 0)
    assert local.take("first", HOUR).left == 2
    for number in range(MOST_LOCAL - 1):
        local.take(str(number), HOUR)
    assert local.take("first", HOUR).left == 1
    local.take("one more", HOUR)
    # Forgotten is the one that was used least lately, which is full again.
    assert local.take("first", HOUR, look=True).left == 1
    assert local.take("0", HOUR, look=True).left == 3
    # Who is refused, or only looked at, costs no memory.
    for number in range(10):
        local.take(f"look {number}", HOUR, look=True)
    assert local.take("1", HOUR, look=True).left == 2
