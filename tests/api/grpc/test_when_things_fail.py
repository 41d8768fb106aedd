"""What a fault is to a caller: whether money moved, where to ask, and nothing of what went wrong."""

import re
from collections.abc import Callable

import pytest
import redis
from sqlalchemy import Engine, text

from api.calls.problems import PROBLEMS
from tests.api.access.provider import SECRET, bearer, signed
from tests.api.conftest import lose_reply_and_refuse
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import (
    BALANCE_AFTER,
    READS,
    SLOW,
    STATUS_OF,
    Ask,
    asks,
    assert_done_once,
    pays,
    refused,
)
from tests.api.grpc.server import MOVES, GrpcServer, Starter, fund
from tests.books import check_books
from tests.conftest import Books
from tests.proxy import TcpProxy
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest

# What REST has and gRPC has not: a URL, an HTTP method, a media type.
NOT_OURS = {"not_found", "method_not_allowed", "unsupported_media_type"} | {
    "not_reversible",
    "reversal_exceeds",
    "bulk_not_found",
    "not_cancelable",
    "webhook_not_found",
    "entries_left",
}
# What makes the transfer durable: one statement, or the commit of a transaction.
COMMITS = {method: b"INSERT INTO transfers" if method == "EnqueueTransfer" else b"COMMIT" for method in MOVES}


@pytest.fixture
def cut(start: Starter, postgres_proxy: TcpProxy) -> GrpcServer:
    """A process that reaches PostgreSQL through ``postgres_proxy``, with users 1 and 2.

    It is the test's own: one with a history has several connections, and looks up by another what is lost by one.
    """
    server = start(DATABASE_URL=postgres_proxy.url)
    fund(server, 1, 2)
    return server


# Every code that gRPC can give, and a call that is refused with it: where all goes well, through a proxy, or slowly.
CASES: dict[str, Ask] = {
    "bad_input": asks("GetBalance", b"\xff"),
    "invalid_amount": asks("Deposit", AmountRequest()),
    "payload_too_large": asks("Deposit", b"\x08\x01" * 9_000),
    "unauthorized": asks("GetBalance", user=None),
    "wallet_not_found": asks("GetBalance", user=3),
    "job_not_found": asks("GetJob", JobRequest(job_id=1)),
    "balance_insufficient": asks("Withdraw", AmountRequest(amount=10_001)),
    "self_transfer_invalid": asks("Transfer", pays(destination_user_id=1)),
    "balance_overflow": asks("Deposit", AmountRequest(amount=2**63 - 1)),
    "idempotency_key_reused": asks("Withdraw", AmountRequest(amount=2), key="used"),
}
BY_OTHERS = {"forbidden", "rate_limited", "unavailable", "outcome_unknown", "wallet_frozen"}


@pytest.mark.parametrize("code", CASES)
def test_a_refusal_has_its_code(server: GrpcServer, code: str) -> None:
    assert server.ask("Withdraw", AmountRequest(amount=1), key="used").message
    refused(CASES[code](server), code)


def test_forbidden_has_its_code(shared: Shared) -> None:
    server = shared(AUTH_MODE="jwt", JWT_SECRET=SECRET, DEPOSIT_SCOPE="wallet:deposit")
    refused(server.ask("Deposit", MOVES["Deposit"], user=bearer(signed())), "forbidden")


def test_rate_limited_has_its_code(shared: Shared) -> None:
    server = shared(RATE_LIMIT=SLOW)
    for _ in range(5):
        server.ask("GetBalance")
    refused(server.ask("GetBalance"), "rate_limited")


def test_no_code_lacks_a_case() -> None:
    assert CASES.keys() | BY_OTHERS == STATUS_OF.keys() - NOT_OURS == PROBLEMS.keys() - NOT_OURS
    assert not CASES.keys() & BY_OTHERS


@pytest.mark.parametrize("method", MOVES)
def test_with_postgresql_away_a_move_is_unavailable_and_nothing_moved(
    cut: GrpcServer, postgres_proxy: TcpProxy, books: Callable[[], Books], method: str
) -> None:
    before = books()
    postgres_proxy.refuse()
    # What is sent in one statement goes out on a connection of the pool, which cannot know that it is dead already.
    first = cut.ask(method, MOVES[method], key="k")
    refused(
        first, "outcome_unknown" if method == "EnqueueTransfer" and "transfer-id" in first.trailing else "unavailable"
    )
    refused(cut.ask(method, MOVES[method], key="k"), "unavailable")
    assert books() == before
    postgres_proxy.refuse(refusing=False)
    assert cut.ask(method, MOVES[method], key="k").message  # and it works again


@pytest.mark.parametrize("method", READS)
def test_with_postgresql_away_a_read_is_unavailable(
    cut: GrpcServer, postgres_proxy: TcpProxy, redis_client: redis.Redis, method: str
) -> None:
    postgres_proxy.refuse()
    redis_client.flushdb()
    said = refused(cut.ask(method, READS[method]), "unavailable").details
    assert not re.search(r"postgres|psycopg|sqlalchemy|SELECT|127\.0\.0\.1", said, re.IGNORECASE)


@pytest.mark.parametrize("method", MOVES)
def test_a_lost_reply_to_the_commit_is_looked_up_and_the_money_moves_once(
    cut: GrpcServer, postgres_proxy: TcpProxy, method: str
) -> None:
    cuts = postgres_proxy.cuts
    postgres_proxy.lose_reply_to(lambda data: COMMITS[method] in data)
    answer = cut.ask(method, MOVES[method], key="k")
    assert postgres_proxy.cuts == cuts + 1
    assert answer.message
    assert not answer.is_replay
    assert cut.ask("GetBalance").message.balance == BALANCE_AFTER.get(method, 9_933)


@pytest.mark.parametrize("method", MOVES)
def test_a_lost_reply_that_cannot_be_looked_up_is_outcome_unknown_with_the_transfer_id(
    cut: GrpcServer, postgres_proxy: TcpProxy, engine: Engine, method: str
) -> None:
    lose_reply_and_refuse(postgres_proxy, COMMITS[method])
    answer = refused(cut.ask(method, MOVES[method], key="k"), "outcome_unknown")
    postgres_proxy.refuse(refusing=False)
    assert_done_once(cut.ask, method, answer)
    check_books(engine)


@pytest.mark.parametrize("method", ["Deposit", "Withdraw", "Transfer"])
def test_a_wallet_locked_for_too_long_is_unavailable_and_nothing_moved(
    shared: Shared, engine: Engine, books: Callable[[], Books], method: str
) -> None:
    server = shared(LOCK_TIMEOUT_MS="50")
    fund(server, 1, 2)
    before = books()
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM wallets WHERE id = 1 FOR UPDATE"))
        refused(server.ask(method, MOVES[method]), "unavailable")
    assert books() == before
