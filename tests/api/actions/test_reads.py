"""Cached reads, whatever face asks: it is found out first who does, and each question costs a token."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
import redis
from sqlalchemy import Engine

from api.access.token_bucket import BucketStorage, TokenBucket
from api.actions import orders
from api.actions.orders import Terms
from api.actions.reads import BALANCE, HISTORY
from api.calls import tracing
from api.calls.call import Call
from api.calls.problems import ApiError
from api.contract.fields import NoQuery
from api.contract.wallets import TransactionsQuery
from api.services import Services, make_services
from config import Rate, Settings
from models.cache.wallet_cache import ENTRIES
from models.errors import WalletNotFound
from observe import logs
from tests.api.waiters import wait_for

Maker = Callable[..., Services]


@pytest.fixture
def make(settings: Settings, engine: Engine, redis_client: redis.Redis) -> Iterator[Maker]:
    """A maker of the inside on empty servers."""
    del engine, redis_client  # asked for to be emptied
    with ExitStack() as made:

        def make(**overrides: object) -> Services:
            # Nothing comes back into a bucket while a test lasts.
            slow = {"rate_limit": Rate(1, 3_600, burst=200)}
            services = make_services(
                settings.model_copy(update=slow | overrides),
                lambda line: TokenBucket(BucketStorage(line=line)),
                application_name="tests",
            )
            made.callback(services.close)
            return services

        yield make
    logs.end_context()


def begin(authorization: str | None = "1") -> Call:
    return Call(tracing.begin(None, None), authorization, lambda: "127.0.0.1")


def nothing() -> NoQuery:
    return NoQuery()


def left(call: Call) -> int:
    return int(dict(call.told)["RateLimit"].split(";r=")[1].split(";")[0])


def fund(services: Services) -> None:
    orders.deposit(services, begin(), Terms(1, 10_000, None))


def test_who_cannot_be_told_is_asked_for_no_more(make: Maker) -> None:
    for authorization in (None, "x"):
        with pytest.raises(ApiError) as refused:
            BALANCE.answer(make(), begin(authorization), lambda: pytest.fail("read what a stranger has sent"))
        assert refused.value.code == "unauthorized"


def test_a_question_that_is_none_costs_a_token(make: Maker) -> None:
    services = make()

    def read() -> TransactionsQuery:
        raise ApiError("bad_input", "No.")

    for expected in (199, 198):
        call = begin()
        with pytest.raises(ApiError, match="bad_input"):
            HISTORY.answer(services, call, read)
        assert left(call) == expected


def test_what_is_not_there_is_not_cached(make: Maker, redis_client: redis.Redis) -> None:
    services = make()
    for _ in range(2):
        with pytest.raises(WalletNotFound):
            BALANCE.answer(services, begin(), nothing)
    assert not redis_client.exists(f"{ENTRIES}1")


@pytest.mark.parametrize("shares", [True, False], ids=["one Redis", "a Redis of its own"])
def test_an_answer_is_cached_and_costs_a_token_still(
    make: Maker, redis_client: redis.Redis, settings: Settings, shares: bool
) -> None:
    services = make(cache_redis_url=None if shares else settings.redis_url)
    assert services.shares_redis == shares
    fund(services)
    wait_for(lambda: bool(BALANCE.answer(services, begin(), nothing)) and bool(redis_client.exists(f"{ENTRIES}1")))
    redis_client.hset(f"{ENTRIES}1", "balance", b'{"balance":7}')  # so that it can be from there only
    call = begin()
    assert BALANCE.answer(services, call, nothing) == b'{"balance":7}'
    assert 0 <= left(call) < 199


def test_what_nobody_waits_for_any_more_is_not_looked_for_in_the_database(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = make(cache_ttl=0)
    fund(services)
    call = begin()
    call.ends_at = time.monotonic() - 1
    with monkeypatch.context() as watched:
        watched.setattr(type(services.history), "get_balance", lambda *_: pytest.fail("looked"))
        with pytest.raises(ApiError) as refused:
            BALANCE.answer(services, call, nothing)
    assert refused.value.code == "unavailable"
    call.ends_at = time.monotonic() + 60
    assert BALANCE.answer(services, call, nothing) == b'{"balance":10000}'


def test_without_limits_the_cache_is_asked_alone(make: Maker, redis_client: redis.Redis) -> None:
    services = make(rate_limit=None)
    fund(services)
    wait_for(lambda: bool(BALANCE.answer(services, begin(), nothing)) and bool(redis_client.exists(f"{ENTRIES}1")))
    redis_client.hset(f"{ENTRIES}1", "balance", b'{"balance":7}')
    call = begin()
    assert BALANCE.answer(services, call, nothing) == b'{"balance":7}'
    assert call.told == []


def test_each_question_has_a_name_of_its_own_and_each_answer_one(make: Maker, redis_client: redis.Redis) -> None:
    services = make()
    fund(services)
    asked = [
        TransactionsQuery(),
        TransactionsQuery(type=1),
        TransactionsQuery(page=2),
        TransactionsQuery(page_size=2),
        TransactionsQuery(cursor="2"),
        TransactionsQuery(cursor="12"),
    ]
    assert len({HISTORY.name(each) for each in asked}) == len(asked)
    # Nobody asks for another page than that after a cursor, and the first page is the first page.
    assert HISTORY.name(TransactionsQuery(cursor="2", page=9)) == HISTORY.name(asked[4])
    assert HISTORY.name(TransactionsQuery(page=1)) == HISTORY.name(asked[0])

    def are_cached() -> bool:
        for each in asked:
            assert HISTORY.answer(services, begin(), partial(lambda query: query, each))
        return redis_client.hlen(f"{ENTRIES}1") == len(asked) + 2  # the version, and the epoch

    wait_for(are_cached)
