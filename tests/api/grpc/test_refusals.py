"""Who is refused, and for what: gRPC's code, the contract's in the trailers, and nothing moves."""

from collections.abc import Callable

import pytest

from api.access.limits import AUTHENTICATION
from tests.api.access.provider import SECRET, bearer, signed
from tests.api.calls import MAX_INT64, basic
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import EVERY_CALL, SLOW, TRANSFERS, Ask, asks, pays, refused
from tests.api.grpc.server import KINDS, MOVES, STREAMS, GrpcServer, fund
from tests.api.waiters import wait_for
from tests.conftest import Books
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest, TransactionsRequest


@pytest.mark.parametrize("method", EVERY_CALL)
@pytest.mark.parametrize(
    "user", [None, "", "0", "-1", "01", "x", "9" * 19, "1 1", "Bearer x", "Basic !", basic("admin", "no")]
)
def test_who_cannot_be_told_is_refused(server: GrpcServer, method: str, user: str | None) -> None:
    refused(server.ask(method, EVERY_CALL[method], user=user), "unauthorized")


@pytest.mark.parametrize("method", EVERY_CALL)
def test_who_cannot_be_told_learns_nothing_of_what_he_has_sent(server: GrpcServer, method: str) -> None:
    refused(server.ask(method, b"\xff\xff\xff", user="x"), "unauthorized")


def test_a_deposit_needs_the_scope_if_one_is_set(shared: Shared, books: Callable[[], Books]) -> None:
    server = shared(AUTH_MODE="jwt", JWT_SECRET=SECRET, DEPOSIT_SCOPE="wallet:deposit")
    before = books()
    for scope in (None, "", "wallet", "wallet:deposit:x"):
        answer = refused(server.ask("Deposit", MOVES["Deposit"], user=bearer(signed(scope=scope))), "forbidden")
        assert 'scope="wallet:deposit"' in answer.trailing["www-authenticate"]
    assert books() == before
    for user in (
        None,
        "1",
        "Bearer",
        bearer("x"),
        bearer(signed(exp=1)),
        bearer(signed(sub="0")),
        bearer(signed() + "x"),
    ):
        refused(server.ask("Deposit", MOVES["Deposit"], user=user), "unauthorized")
    granted = bearer(signed(scope="a wallet:deposit"))
    assert server.ask("Deposit", MOVES["Deposit"], user=granted).message.balance == 67
    assert server.ask("Withdraw", MOVES["Withdraw"], user=bearer(signed())).message.balance == 0


@pytest.mark.parametrize("method", EVERY_CALL.keys() - {"Deposit", "GetJob", "WatchJob"})
def test_who_has_no_wallet_is_told(server: GrpcServer, method: str) -> None:
    refused(server.ask(method, EVERY_CALL[method], user=3), "wallet_not_found")


@pytest.mark.parametrize("method", TRANSFERS)
def test_nobody_is_paid_who_has_no_wallet(server: GrpcServer, books: Callable[[], Books], method: str) -> None:
    before = books()
    refused(server.ask(method, pays(destination_user_id=3)), "wallet_not_found")
    assert books() == before


@pytest.mark.parametrize("method", ["GetJob", "WatchJob"])
def test_a_job_of_others_is_none(server: GrpcServer, method: str) -> None:
    fund(server, 3)
    transfer_id = server.ask("Transfer", MOVES["Transfer"]).message.transfer_id
    refused(server.ask(method, JobRequest(job_id=transfer_id), user=3), "job_not_found")
    for job_id in (0, 1, transfer_id + 1, MAX_INT64, -1, -transfer_id, -MAX_INT64 - 1):
        refused(server.ask(method, JobRequest(job_id=job_id)), "job_not_found")


BUSINESS: dict[str, tuple[str, Ask]] = {
    "more than there is": ("balance_insufficient", asks("Withdraw", AmountRequest(amount=10_001))),
    "all that there can be": ("balance_insufficient", asks("Withdraw", AmountRequest(amount=MAX_INT64))),
    **{
        f"{method}: more than there is": ("balance_insufficient", asks(method, pays(amount=10_001)))
        for method in TRANSFERS
    },
    **{
        f"{method}: to oneself": ("self_transfer_invalid", asks(method, pays(destination_user_id=1)))
        for method in TRANSFERS
    },
    "beyond the largest balance": ("balance_overflow", asks("Deposit", AmountRequest(amount=MAX_INT64))),
}


@pytest.mark.parametrize(("code", "ask"), BUSINESS.values(), ids=BUSINESS)
def test_a_business_no_moves_nothing(server: GrpcServer, books: Callable[[], Books], code: str, ask: Ask) -> None:
    before = books()
    refused(ask(server), code)
    assert books() == before


@pytest.mark.parametrize("method", MOVES)
def test_another_message_under_the_same_key_is_refused(
    server: GrpcServer, books: Callable[[], Books], method: str
) -> None:
    assert server.ask(method, MOVES[method], key="k").message
    before = books()
    changed = {each: pays(amount=68) if each in TRANSFERS else AmountRequest(amount=68) for each in MOVES}
    others = [(each, message) for each, message in MOVES.items() if each != method]
    for other, message in [*changed.items(), *others]:
        refused(server.ask(other, message, key="k"), "idempotency_key_reused")
    assert books() == before
    assert server.ask(method, MOVES[method], key="k").is_replay
    assert not server.ask(method, MOVES[method], key="K").is_replay


@pytest.mark.parametrize("method", EVERY_CALL)
def test_who_asks_too_often_is_told_when_to_ask_again(shared: Shared, books: Callable[[], Books], method: str) -> None:
    server = shared(RATE_LIMIT=SLOW)
    told = [server.ask("GetBalance").initial["ratelimit"].split(";")[1] for _ in range(5)]
    assert told == ["r=4", "r=3", "r=2", "r=1", "r=0"]
    before = books()
    # Whatever is sent, well-formed or not.
    for message in (EVERY_CALL[method], b"\xff\xff\xff"):
        answer = refused(server.ask(method, message, key="k" if method in MOVES else None), "rate_limited")
        assert 3_590 < int(answer.trailing["retry-after"]) <= 3_600
        assert answer.initial["ratelimit-policy"] == '"user";q=5;w=18000'
        assert answer.initial["ratelimit"].startswith('"user";r=0;t=')
    assert books() == before


def test_what_is_refused_costs_a_token_too(shared: Shared) -> None:
    server = shared(RATE_LIMIT=SLOW)
    for message, code in (
        (b"\xff\xff\xff", "bad_input"),
        (AmountRequest(), "invalid_amount"),
        (MOVES["Withdraw"], "wallet_not_found"),
        (b"\x08\x01" * 9_000, "payload_too_large"),
    ):
        refused(server.ask("Withdraw", message), code)
    left = refused(server.ask("ListTransactions", TransactionsRequest(type=9)), "bad_input")
    assert left.initial["ratelimit"].startswith('"user";r=0;')
    refused(server.ask("GetBalance"), "rate_limited")


def test_tokens_come_back(shared: Shared) -> None:
    server = shared(RATE_LIMIT="10/second;burst=1")
    server.ask("GetBalance")
    wait_for(lambda: server.ask("GetBalance").error_code == "wallet_not_found")


def test_who_guesses_from_one_address_is_told_to_stop(shared: Shared) -> None:
    server = shared(RATE_LIMIT=SLOW)
    for number in range(AUTHENTICATION.burst):
        method = list(EVERY_CALL)[number % len(EVERY_CALL)]
        refused(server.ask(method, EVERY_CALL[method], user="x"), "unauthorized")
    refused(server.ask("GetBalance", user="x"), "rate_limited")
    assert server.ask("GetBalance").error_code == "wallet_not_found"  # users of that address go on
    # Who shows nothing has not guessed.
    assert refused(server.ask("GetBalance", user=None), "unauthorized").initial.get("ratelimit") is None


def test_every_method_is_asked_with_what_it_takes() -> None:
    assert EVERY_CALL.keys() == KINDS.keys() >= STREAMS
    assert all(isinstance(EVERY_CALL[method], kind) for method, (kind, _) in KINDS.items())
