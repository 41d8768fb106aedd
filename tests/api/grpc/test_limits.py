"""Throttling by gRPC: the very buckets that REST has, of users, and of the addresses that guesses come from."""

import pytest

from api.access.limits import AUTHENTICATION, PASSWORDS
from tests.api.access.provider import SECRET, bearer, signed
from tests.api.calls import ADMIN, BALANCE, HISTORY, JOBS, ask, basic, get, post, problem
from tests.api.calls import MOVES as REST_MOVES
from tests.api.conftest import AppMaker
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import EVERY_CALL, READS, SLOW, refused
from tests.api.grpc.server import MOVES, GrpcServer, fund
from tests.proxy import TcpProxy
from wallet.v1.wallet_pb2 import JobRequest

BURST = 5
WRONG = basic("admin", "wrong")
DEAD_LETTERS = "/api/dead-letters/v1"
GUESSES = PASSWORDS.burst
assert AUTHENTICATION.burst == GUESSES
JOB = JobRequest(job_id=1)


@pytest.fixture
def slow(shared: Shared) -> GrpcServer:
    """A process whose users have five calls, and one more an hour."""
    return shared(RATE_LIMIT=SLOW)


def test_a_bucket_that_one_face_has_emptied_is_empty_for_the_other(slow: GrpcServer, make_app: AppMaker) -> None:
    client = make_app(rate_limit=SLOW).test_client()
    for user in (1, 2):
        for number in range(BURST):
            by_grpc = user == 1 or number % 2  # one all by gRPC, one by both in turn
            told = (
                slow.ask("GetBalance", user=user).initial["ratelimit"]
                if by_grpc
                else get(client, BALANCE, user=user).headers["RateLimit"]
            )
            assert told.startswith(f'"user";r={BURST - 1 - number};t=')
        for path in (BALANCE, HISTORY, f"{JOBS}/1"):
            problem(get(client, path, user=user), "rate_limited")
        for path, body in REST_MOVES.items():
            problem(post(client, path, body, user=user), "rate_limited")
        for method, message in EVERY_CALL.items():
            refused(slow.ask(method, message, user=user), "rate_limited")
    assert slow.ask("GetBalance", user=3).error_code == "wallet_not_found"  # others do not notice


def test_one_bucket_is_for_every_method(slow: GrpcServer) -> None:
    fund(slow, 1, 2)
    for method in ("GetBalance", "ListTransactions", "GetJob", "Transfer"):
        assert slow.ask(method, EVERY_CALL[method]).initial["ratelimit-policy"] == f'"user";q={BURST};w={BURST * 3600}'
    for method, message in EVERY_CALL.items():
        refused(slow.ask(method, message), "rate_limited")


def test_a_read_from_the_cache_costs_a_token_as_any(slow: GrpcServer) -> None:
    fund(slow, 1)
    for _ in range(BURST - 1):
        assert slow.ask("GetBalance").message
    refused(slow.ask("GetBalance"), "rate_limited")


def test_administrators_have_a_bucket_of_their_own(slow: GrpcServer, make_app: AppMaker) -> None:
    client = make_app(rate_limit=SLOW).test_client()
    for number in range(BURST):
        method = ("GetJob", "WatchJob")[number % 2]
        answer = refused(slow.ask(method, JOB, user=ADMIN), "job_not_found")
        assert answer.initial["ratelimit"].startswith(f'"user";r={BURST - 1 - number};')
    refused(slow.ask("GetJob", JOB, user=ADMIN), "rate_limited")
    problem(get(client, DEAD_LETTERS, user=ADMIN), "rate_limited")


@pytest.mark.parametrize("method", EVERY_CALL.keys() - {"GetJob", "WatchJob"})
def test_an_administrator_is_no_user(server: GrpcServer, method: str) -> None:
    refused(server.ask(method, EVERY_CALL[method], user=ADMIN), "unauthorized")


def test_wrong_passwords_are_counted_by_address_whatever_face_they_come_by(
    slow: GrpcServer, make_app: AppMaker
) -> None:
    client = make_app(rate_limit=SLOW).test_client()
    for number in range(GUESSES):
        if number % 2:
            problem(get(client, DEAD_LETTERS, user=WRONG), "unauthorized")
            continue
        answer = refused(slow.ask(("GetJob", "WatchJob")[number % 4 // 2], JOB, user=WRONG), "unauthorized")
        assert answer.initial["ratelimit"].startswith(f'"password";r={GUESSES - 1 - number};')
        assert answer.trailing["www-authenticate"].startswith("Basic ")
    # Not even the right one is looked at now.
    for user in (WRONG, ADMIN):
        refused(slow.ask("GetJob", JOB, user=user), "rate_limited")
        problem(get(client, DEAD_LETTERS, user=user), "rate_limited")
    # Users, who may have the same address, go on.
    assert slow.ask("GetBalance").error_code == "wallet_not_found"


def test_bad_credentials_are_counted_by_address_whatever_face_they_come_by(
    slow: GrpcServer, make_app: AppMaker
) -> None:
    client = make_app(rate_limit=SLOW).test_client()
    for number in range(GUESSES):
        if number % 2:
            problem(get(client, BALANCE, user="x"), "unauthorized")
        else:
            refused(slow.ask("GetBalance", user="x"), "unauthorized")
    refused(slow.ask("Deposit", MOVES["Deposit"], user="0"), "rate_limited")
    problem(get(client, BALANCE, user="0"), "rate_limited")


def test_bad_tokens_are_counted_and_good_ones_go_on(shared: Shared) -> None:
    server = shared(AUTH_MODE="jwt", JWT_SECRET=SECRET, RATE_LIMIT=SLOW)
    for token in [signed(exp=1), "x", signed(sub="0"), signed() + "x"] * (GUESSES // 4):
        refused(server.ask("GetBalance", user=bearer(token)), "unauthorized")
    refused(server.ask("GetBalance", user=bearer(signed(exp=1))), "rate_limited")
    assert server.ask("GetBalance", user=bearer(signed())).error_code == "wallet_not_found"


def guess(server: GrpcServer, *said: tuple[str, str]) -> str | None:
    return server.ask("GetBalance", user="x", metadata=said).error_code


def test_a_stranger_that_makes_up_addresses_is_one_stranger(slow: GrpcServer, make_app: AppMaker) -> None:
    told = {guess(slow, ("x-forwarded-for", f"198.51.100.{number}")) for number in range(GUESSES)}
    assert told == {"unauthorized"}
    assert guess(slow, ("x-forwarded-for", "198.51.100.99")) == "rate_limited"
    # It is the address of the connection, which REST knows by the same name.
    problem(get(make_app(rate_limit=SLOW).test_client(), BALANCE, user="x"), "rate_limited")


def test_behind_a_trusted_proxy_each_has_his_own_address(shared: Shared, make_app: AppMaker) -> None:
    server = shared(RATE_LIMIT=SLOW, TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8")
    # What he has made up himself, further left, counts for nothing.
    told = {guess(server, ("x-forwarded-for", f"192.0.2.{number}, 198.51.100.7")) for number in range(GUESSES)}
    assert told == {"unauthorized"}
    for said in ("192.0.2.99, 198.51.100.7", "198.51.100.7, 10.0.0.3", "::ffff:198.51.100.7"):
        assert guess(server, ("x-forwarded-for", said)) == "rate_limited"
    assert guess(server, ("forwarded", "for=198.51.100.7")) == "rate_limited"
    assert guess(server, ("x-forwarded-for", "198.51.100.8")) == "unauthorized"
    assert guess(server) == "unauthorized"  # the proxy itself
    client = make_app(rate_limit=SLOW, trusted_proxies="127.0.0.1").test_client()
    problem(ask(client, "GET", BALANCE, user="x", headers={"X-Forwarded-For": "198.51.100.7"}), "rate_limited")


def test_off_means_no_throttling_of_any_kind(shared: Shared) -> None:
    server = shared(RATE_LIMIT="off")
    for _ in range(GUESSES + BURST):
        for user in (1, WRONG, ADMIN, "x"):
            answer = server.ask("GetJob", JOB, user=user)
            assert answer.error_code in {"job_not_found", "unauthorized"}
            assert not {"ratelimit", "ratelimit-policy"} & answer.initial.keys()


def test_without_redis_limits_hold_in_the_process(shared: Shared, redis_url: str) -> None:
    with TcpProxy.before(redis_url) as away:
        away.refuse()
        server = shared(RATE_LIMIT=SLOW, REDIS_URL=away.url)
        fund(server, 1)
        for method, message in READS.items():
            assert server.ask(method, message).error_code in {None, "job_not_found"}
        refused(server.ask("GetBalance"), "rate_limited")
        assert server.ask("GetBalance", user=2).error_code == "wallet_not_found"
