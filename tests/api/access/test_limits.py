"""Throttling over HTTP: a bucket per user for everything, two per address for what is guessed at, and their headers."""

import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.access.limits import AUTHENTICATION, PASSWORDS
from api.access.token_bucket import BucketStorage, TokenBucket
from config import ConfigurationError, Rate, Settings, load
from tests.api.access.provider import SECRET, bearer, signed
from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MOVES,
    TRANSFER_LATER,
    answer,
    ask,
    basic,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.server import gunicorn
from tests.api.waiters import wait_for
from tests.conftest import Books
from tests.proxy import CountingProxy, TcpProxy

# Slow enough that no token comes back within a test.
BURST = 5
SLOW = f"1/hour;burst={BURST}"
OPEN_TO_ALL = ["/healthz", "/readyz", "/metrics", "/docs/", "/openapi.json"]
DEAD_LETTERS = "/api/dead-letters/v1"
GUESSES = AUTHENTICATION.burst
assert PASSWORDS.burst == GUESSES
WRONG = basic("admin", "wrong")


@pytest.fixture
def slow(make_app: AppMaker, redis_client: redis.Redis) -> FlaskClient:
    """A client of an application whose users have five requests, and one more an hour."""
    del redis_client  # asked for to be emptied
    return make_app(rate_limit=SLOW).test_client()


def test_flask_limiter_has_our_strategy_and_storage_and_costs_no_request_anything(make_app: AppMaker) -> None:
    app = make_app(rate_limit=SLOW)
    (limiter,) = app.extensions["limiter"]
    assert isinstance(limiter.limiter, TokenBucket)
    assert isinstance(limiter.storage, BucketStorage)
    hooks = (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs)
    installed = [function for kind in hooks for functions in kind.values() for function in functions]
    assert installed
    assert [each for each in installed if "limiter" in repr(each).lower()] == []


def left(response: TestResponse) -> int:
    """Return what the headers say is left, after checking how they are spelled (RFC 9651 lists of items)."""
    found = re.fullmatch(
        r'"(user|authentication|password)";r=([0-9]{1,15});t=([0-9]{1,15})', response.headers["RateLimit"]
    )
    policy = re.fullmatch(r'"(user|authentication|password)";q=([0-9]{1,15});w=([1-9][0-9]{0,14})', _policy(response))
    assert found is not None
    assert policy is not None
    assert found[1] == policy[1]
    assert int(found[2]) < int(policy[2])
    assert 0 < int(found[3]) <= int(policy[3])
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        assert found[2] == "0"
        assert response.headers["Retry-After"] == found[3]
    return int(found[2])


def _policy(response: TestResponse) -> str:
    return response.headers["RateLimit-Policy"]


def use_up(client: FlaskClient, user: int | str = 1) -> None:
    while get(client, f"{JOBS}/1", user=user).status_code != HTTPStatus.TOO_MANY_REQUESTS:
        pass


def test_a_user_has_his_burst_and_then_waits(slow: FlaskClient) -> None:
    responses = [get(slow, BALANCE) for _ in range(BURST + 2)]
    assert [each.status_code for each in responses] == [404] * BURST + [429] * 2
    assert [left(each) for each in responses] == [4, 3, 2, 1, 0, 0, 0]
    assert {_policy(each) for each in responses} == {f'"user";q={BURST};w={BURST * 3600}'}
    problem(responses[-1], "rate_limited")
    assert 3_590 < int(responses[-1].headers["Retry-After"]) <= 3_600


def test_one_bucket_is_for_everything(slow: FlaskClient) -> None:
    fund(slow, 1, 2)
    for path in (HISTORY, f"{JOBS}/1", BALANCE):
        get(slow, path)
    answer(post(slow, TRANSFER_LATER, MOVES[TRANSFER_LATER]), 202)
    for path, body in MOVES.items():
        problem(post(slow, path, body), "rate_limited")
    for path in (HISTORY, f"{JOBS}/1", f"{JOBS}/1?wait=20", BALANCE):
        problem(get(slow, path), "rate_limited")
    # Others do not notice.
    assert left(get(slow, BALANCE, user=2)) == BURST - 2


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{BALANCE}?unknown=1", None),
        ("GET", f"{HISTORY}?page=x", None),
        ("GET", f"{JOBS}/x", None),
        ("POST", DEPOSIT, {"amount": -1}),
        ("POST", DEPOSIT, b"{"),
        ("GET", BALANCE, None),
    ],
)
def test_what_is_refused_costs_a_token_too(
    slow: FlaskClient, method: str, path: str, body: dict[str, object] | bytes | None
) -> None:
    responses = [ask(slow, method, path, body=body) for _ in range(BURST + 1)]
    assert [left(each) for each in responses] == [4, 3, 2, 1, 0, 0]
    assert {each.status_code for each in responses[:-1]} <= {400, 404}
    problem(responses[-1], "rate_limited")


def test_tokens_come_back(make_app: AppMaker, redis_client: redis.Redis) -> None:
    del redis_client
    client = make_app(rate_limit="10/second;burst=1").test_client()
    use_up(client)
    wait_for(lambda: get(client, BALANCE).status_code == 404)


def test_a_429_moves_nothing_and_binds_no_key(
    slow: FlaskClient, books: Callable[[], Books], make_app: AppMaker
) -> None:
    fund(slow, 1, 2)
    use_up(slow)
    before = books()
    for path, body in MOVES.items():
        problem(post(slow, path, body, key=path), "rate_limited")
    assert books() == before
    other = make_app(rate_limit="off").test_client()
    for path, body in MOVES.items():
        # Any body goes under the key, since nothing was bound to it.
        response = post(other, path, body | {"amount": 1}, key=path)
        assert response.status_code in {200, 202}
        assert "Idempotency-Replayed" not in response.headers


def test_a_read_from_the_cache_costs_a_token_as_any(make_app: AppMaker, redis_client: redis.Redis) -> None:
    redis_client.flushdb()
    client = make_app(rate_limit=SLOW).test_client()
    fund(client, 1)
    responses = [get(client, BALANCE) for _ in range(BURST)]
    assert [left(each) for each in responses] == [3, 2, 1, 0, 0]
    problem(responses[-1], "rate_limited")


def test_what_has_no_user_is_not_throttled(slow: FlaskClient) -> None:
    use_up(slow)
    for path in OPEN_TO_ALL:
        for _ in range(GUESSES + BURST):
            with get(slow, path) as response:
                assert response.status_code == 200
                assert "RateLimit" not in response.headers
    for _ in range(GUESSES + BURST):
        assert ask(slow, "OPTIONS", DEPOSIT).status_code == 200


def test_administrators_have_a_bucket_of_their_own(slow: FlaskClient) -> None:
    use_up(slow)
    responses = [get(slow, DEAD_LETTERS, user=ADMIN) for _ in range(BURST + 1)]
    assert [left(each) for each in responses] == [4, 3, 2, 1, 0, 0]
    problem(responses[-1], "rate_limited")
    problem(get(slow, f"{JOBS}/1", user=ADMIN), "rate_limited")


def test_who_guesses_from_one_address_is_told_to_stop(slow: FlaskClient) -> None:
    responses = [get(slow, DEAD_LETTERS, user=WRONG) for _ in range(GUESSES + 2)]
    assert [left(each) for each in responses] == [*range(GUESSES - 1, -1, -1), 0, 0]
    for each in responses[:GUESSES]:
        problem(each, "unauthorized")
    for each in responses[GUESSES:]:
        problem(each, "rate_limited")
    assert int(responses[-1].headers["Retry-After"]) <= 6
    # Not even the right one is looked at now: it would tell who guesses that he has found it.
    problem(get(slow, DEAD_LETTERS, user=ADMIN), "rate_limited")
    # Users, who may have the same address, go on.
    assert get(slow, BALANCE).status_code == 404


def test_wrong_passwords_are_counted_whatever_they_are_for(slow: FlaskClient) -> None:
    for path in [f"{JOBS}/1", DEAD_LETTERS, "/rq/", "/api/audit/v1"] * (GUESSES // 4):
        response = get(slow, path, user=WRONG)
        problem(response, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
    problem(get(slow, "/rq/", user=basic("somebody", "else")), "rate_limited")
    problem(get(slow, "/rq/", user="Basic !"), "rate_limited")


def test_who_guesses_as_a_user_does_not_lock_out_the_administrator_of_his_address(slow: FlaskClient) -> None:
    while get(slow, BALANCE, user="abc").status_code != HTTPStatus.TOO_MANY_REQUESTS:
        pass
    assert get(slow, DEAD_LETTERS, user=ADMIN).status_code == 200
    # A mistyped password is not held against him at once, either.
    assert left(get(slow, DEAD_LETTERS, user=WRONG)) == GUESSES - 1


def test_a_password_is_tried_and_counted_in_one_step(
    make_app: AppMaker, redis_url: str, redis_client: redis.Redis
) -> None:
    """Between two, others would try theirs: as many as come at the same time, for each that is to be answered."""
    del redis_client  # asked for to be emptied
    with CountingProxy.before(redis_url) as proxy:
        client = make_app(rate_limit=SLOW, redis_url=proxy.url).test_client()
        problem(get(client, DEAD_LETTERS, user=WRONG), "unauthorized")  # of which Redis may have to learn the script
        proxy.sent.clear()
        problem(get(client, DEAD_LETTERS, user=WRONG), "unauthorized")
        assert proxy.questions() == [1]


@pytest.mark.parametrize("credentials", ["0", "abc", "Bearer x", "9" * 30, ""])
def test_malformed_credentials_are_counted(slow: FlaskClient, credentials: str) -> None:
    for path in [BALANCE, f"{JOBS}/1", DEAD_LETTERS, DEPOSIT, "/rq/"] * (GUESSES // 5):
        problem(ask(slow, "POST" if path == DEPOSIT else "GET", path, user=credentials), "unauthorized")
    problem(get(slow, BALANCE, user=credentials), "rate_limited")


def test_bad_tokens_are_counted_and_good_ones_go_on(make_app: AppMaker, redis_client: redis.Redis) -> None:
    del redis_client
    client = make_app(auth_mode="jwt", jwt_secret=SECRET, rate_limit=SLOW).test_client()
    for token in [signed(exp=1), "x", signed(sub="0"), signed() + "x"] * (GUESSES // 4):
        problem(get(client, BALANCE, user=bearer(token)), "unauthorized")
    problem(get(client, BALANCE, user=bearer(signed(exp=1))), "rate_limited")
    problem(get(client, BALANCE, user="1"), "rate_limited")
    assert [left(get(client, BALANCE, user=bearer(signed(jti=str(each))))) for each in range(2)] == [4, 3]


def test_who_shows_no_credentials_has_not_guessed(slow: FlaskClient) -> None:
    for _ in range(GUESSES + 2):
        for path in (BALANCE, DEAD_LETTERS):
            response = get(slow, path, user=None)
            problem(response, "unauthorized")
            assert "RateLimit" not in response.headers


def guess(client: FlaskClient, peer: str, forwarded: str | None = None) -> int:
    headers = {"Authorization": WRONG} | ({} if forwarded is None else {"X-Forwarded-For": forwarded})
    response = client.get(DEAD_LETTERS, headers=headers, environ_base={"REMOTE_ADDR": peer})
    return response.status_code


@pytest.mark.parametrize(
    ("first", "same", "others"),
    [
        ("198.51.100.7", "::ffff:198.51.100.7", ["198.51.100.8", "::ffff:198.51.100.9", "2001:db8::1"]),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", ["2001:db8:0:2::1", "198.51.100.7"]),
        ("fe80::1%eth0", "fe80::2%eth0", ["fe80:0:0:1::1%eth0"]),
        ("::ffff:198.51.100.7", "198.51.100.7", ["::ffff:198.51.100.8", "::1"]),
        ("", "", ["127.0.0.1"]),  # a socket in the file system
    ],
)
def test_an_address_is_one_of_ipv4_or_a_network_of_ipv6(
    slow: FlaskClient, first: str, same: str, others: list[str]
) -> None:
    assert {guess(slow, first) for _ in range(GUESSES)} == {401}
    assert (guess(slow, first), guess(slow, same)) == (429, 429)
    assert {guess(slow, other) for other in others} == {401}


def test_only_trusted_proxies_say_whose_address_it_is(make_app: AppMaker, redis_client: redis.Redis) -> None:
    redis_client.flushdb()
    client = make_app(rate_limit=SLOW, trusted_proxies="10.0.0.0/8").test_client()
    # A stranger that makes up addresses is one stranger.
    assert {guess(client, "203.0.113.9", f"198.51.100.{n}") for n in range(GUESSES)} == {401}
    assert guess(client, "203.0.113.9", "198.51.100.99") == 429
    # Behind a proxy each has his own, and what he made up himself counts for nothing.
    assert {guess(client, "10.0.0.1", f"192.0.2.{n}, 198.51.100.7") for n in range(GUESSES)} == {401}
    assert guess(client, "10.0.0.1", "192.0.2.99, 198.51.100.7") == 429
    assert guess(client, "10.0.0.1", "198.51.100.8") == 401


def test_off_means_no_throttling_of_any_kind(make_app: AppMaker, redis_client: redis.Redis) -> None:
    client = make_app(rate_limit="off").test_client()
    for _ in range(3 * GUESSES):
        for user in (1, WRONG, ADMIN):
            response = get(client, DEAD_LETTERS if user == ADMIN else BALANCE, user=user)
            assert response.status_code in {200, 401, 404}
            assert "RateLimit" not in response.headers
            assert "RateLimit-Policy" not in response.headers
    assert redis_client.keys("wallet:token-bucket:*") == []


def test_by_default_the_tour_is_not_throttled(make_app: AppMaker, redis_client: redis.Redis) -> None:
    redis_client.flushdb()
    client = make_app().test_client()
    fund(client, 1)
    assert {get(client, BALANCE).status_code for _ in range(100)} == {200}
    assert _policy(get(client, BALANCE)) == '"user";q=200;w=2'


def test_without_redis_limits_hold_in_each_process(make_app: AppMaker, redis_proxy: TcpProxy) -> None:
    client = make_app(rate_limit=SLOW, redis_url=redis_proxy.url).test_client()
    redis_proxy.refuse()
    fund(client, 1)
    responses = [get(client, BALANCE) for _ in range(BURST)]
    assert [(each.status_code, left(each)) for each in responses] == [(200, 3), (200, 2), (200, 1), (200, 0), (429, 0)]
    assert {get(client, DEAD_LETTERS, user=WRONG).status_code for _ in range(GUESSES)} == {401}
    problem(get(client, DEAD_LETTERS, user=ADMIN), "rate_limited")


def test_processes_share_a_bucket(
    tmp_path: Path, engine: Engine, redis_client: redis.Redis, service_database_url: str, redis_url: str
) -> None:
    del engine, redis_client  # asked for to be emptied
    settings = {
        "DATABASE_URL": service_database_url,
        "REDIS_URL": redis_url,
        "API_PROCESSES": "1",
        "RATE_LIMIT": "1/hour;burst=10",
    }
    with gunicorn(tmp_path / "one.log", **settings) as one, gunicorn(tmp_path / "two.log", **settings) as two:
        answers = [server.get(BALANCE) for _ in range(6) for server in (one, two)]
        assert [each.status for each in answers] == [404] * 10 + [429] * 2
        assert [int(each.headers["ratelimit"].split(";")[1][2:]) for each in answers] == [*range(9, -1, -1), 0, 0]


@pytest.mark.parametrize(
    "value",
    ["x", "0/second", "1", "1/day", "1/second;burst=0", "1/second;burst=", "1/second;burst=x", "-1/second", "1.5/hour",
     "1/second;burst=5;x", " 1/second", "1/second\n", "1000000000/second", "on", "OFF", "none"],
)  # fmt: skip
def test_a_wrong_limit_is_named_at_the_start(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^RATE_LIMIT: must be off, or like 100/second;burst=200"):
        load(Settings, database_url="postgresql://nowhere", redis_url="redis://nowhere", rate_limit=value)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("off", None),
        ("5/second;burst=7", Rate(5, 1, 7)),
        ("5/minute", Rate(5, 60, 5)),
        ("999999999/hour;burst=999999999", Rate(999_999_999, 3_600, 999_999_999)),
    ],
)
def test_limits_are_read(value: str, rate: Rate | None) -> None:
    settings = load(Settings, database_url="postgresql://nowhere", redis_url="redis://nowhere", rate_limit=value)
    assert settings.rate_limit == rate
