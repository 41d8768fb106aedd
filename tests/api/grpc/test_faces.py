"""REST and gRPC are two faces of one service: of each other's keys, books, cache, limits and jobs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import Engine

from models.cache.wallet_cache import ENTRIES
from observe import metrics
from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    Json,
    accept,
    answer,
    ask,
    basic,
    get,
    post,
    problem,
)
from tests.api.calls import MOVES as REST_MOVES
from tests.api.conftest import AppMaker
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import TRANSFERS, pays, refused
from tests.api.grpc.server import MOVES, GrpcServer, fund
from tests.api.waiters import wait_for
from tests.books import check_books
from tests.conftest import Books
from tests.proxy import TcpProxy
from wallet.v1.wallet_pb2 import AmountRequest, BalanceRequest, JobRequest, TransactionsRequest

ROUTE = {"Deposit": DEPOSIT, "Withdraw": WITHDRAW, "Transfer": TRANSFER, "EnqueueTransfer": TRANSFER_LATER}
EVERY_MOVE = pytest.mark.parametrize("method", MOVES)
WRONG = basic("admin", "wrong")
# The same part of a wallet, as each face asks for it.
READS = {
    BALANCE: BalanceRequest(),
    HISTORY: TransactionsRequest(),
    f"{HISTORY}?page=2&page_size=2": TransactionsRequest(page=2, page_size=2),
    f"{HISTORY}?page_size=2": TransactionsRequest(page_size=2),
    f"{HISTORY}?type=3": TransactionsRequest(type=3),
    f"{HISTORY}?type=1&page_size=1&page=2": TransactionsRequest(type=1, page_size=1, page=2),
    f"{HISTORY}?cursor=3": TransactionsRequest(cursor="3"),
}


def read_by_grpc(server: GrpcServer, path: str, user: int = 1) -> Json:
    """Read what REST has at a path, and spell it as REST does, as far as both faces tell it."""
    if path == BALANCE:
        return {"balance": server.ask("GetBalance", user=user).message.balance}
    page = server.ask("ListTransactions", READS[path], user=user).message
    shown = [
        {
            "transaction_id": each.transaction_id,
            "transfer_id": str(each.transfer_id),
            "type": each.type,
            "amount": each.amount,
            "balance_after": each.balance_after,
            "counterparty_user_id": str(each.counterparty_user_id) if each.counterparty_user_id else None,
            "desc": each.desc,
            "reference": each.reference or None,
            "created_at": each.created_at,
        }
        for each in page.transactions
    ]
    return {
        "transactions": shown,
        "has_more": page.has_more,
        "next_cursor": page.next_cursor or None,
        "statement_balance": page.statement_balance,
    }


def read_by_rest(client: FlaskClient, path: str, user: int = 1) -> Json:
    found = answer(get(client, path, user=user))
    if path == BALANCE:
        return found
    for each in found["transactions"]:
        del each["transaction_type"]
    return {name: value for name, value in found.items() if name not in {"page", "page_size"}}


def assert_agreed(client: FlaskClient, server: GrpcServer, *, users: tuple[int, ...] = (1, 2)) -> None:
    for user in users:
        for path in READS:
            assert read_by_rest(client, path, user) == read_by_grpc(server, path, user)


@EVERY_MOVE
def test_a_key_of_rest_is_the_same_by_grpc(
    server: GrpcServer, client: FlaskClient, books: Callable[[], Books], method: str
) -> None:
    first = decoded(post(client, ROUTE[method], REST_MOVES[ROUTE[method]], key="k"))
    before = books()
    again = server.ask(method, MOVES[method], key="k")
    assert again.is_replay
    if method == "EnqueueTransfer":
        assert str(again.message.job_id) == first["job_id"]
    else:
        assert (str(again.message.transfer_id), again.message.balance) == (first["transfer_id"], first["balance"])
    assert books() == before


@EVERY_MOVE
def test_a_key_of_grpc_is_the_same_by_rest(
    server: GrpcServer, client: FlaskClient, books: Callable[[], Books], method: str
) -> None:
    first = server.ask(method, MOVES[method], key="k").message
    before = books()
    response = post(client, ROUTE[method], REST_MOVES[ROUTE[method]], key="k")
    assert response.headers["Idempotency-Replayed"] == "true"
    again = decoded(response)
    if method == "EnqueueTransfer":
        assert again["job_id"] == str(first.job_id)
    else:
        assert (again["transfer_id"], again["balance"]) == (str(first.transfer_id), first.balance)
    assert books() == before


def decoded(response: Any) -> Json:
    return answer(response, 202 if response.request.path == TRANSFER_LATER else 200)


@EVERY_MOVE
def test_another_body_under_the_same_key_is_refused_by_the_other_face(
    server: GrpcServer, client: FlaskClient, books: Callable[[], Books], method: str
) -> None:
    path = ROUTE[method]
    post(client, path, REST_MOVES[path], key="rest")
    server.ask(method, MOVES[method], key="grpc")
    before = books()
    changed = pays(amount=68) if method in TRANSFERS else AmountRequest(amount=68)
    refused(server.ask(method, changed, key="rest"), "idempotency_key_reused")
    problem(post(client, path, REST_MOVES[path] | {"amount": 68}, key="grpc"), "idempotency_key_reused")
    for other in MOVES.keys() - {method}:
        refused(server.ask(other, MOVES[other], key="rest"), "idempotency_key_reused")
        problem(post(client, ROUTE[other], REST_MOVES[ROUTE[other]], key="grpc"), "idempotency_key_reused")
    assert books() == before


@EVERY_MOVE
def test_one_key_by_both_faces_at_once_moves_money_once(
    server: GrpcServer, client: FlaskClient, books: Callable[[], Books], engine: Engine, method: str
) -> None:
    before = len(books().transfers)

    def by_grpc(number: int) -> int:
        moved = server.ask(method, MOVES[method], key=f"k{number}").message
        return int(moved.job_id if method == "EnqueueTransfer" else moved.transfer_id)

    def by_rest(number: int) -> int:
        moved = decoded(post(client, ROUTE[method], REST_MOVES[ROUTE[method]], key=f"k{number}"))
        return int(moved.get("job_id") or moved["transfer_id"])

    with ThreadPoolExecutor(8) as callers:
        both = [(callers.submit(by_grpc, each), callers.submit(by_rest, each)) for each in range(20)]
        assert all(one.result() == other.result() for one, other in both)
    assert len(books().transfers) == before + 20
    check_books(engine)


@pytest.mark.parametrize("cache_ttl", ["0", "300"])
def test_each_face_reads_what_the_other_wrote(
    shared: Shared, make_app: AppMaker, settle: Callable[[str], None], engine: Engine, cache_ttl: str
) -> None:
    server, client = shared(CACHE_TTL=cache_ttl), make_app(cache_ttl=cache_ttl).test_client()
    fund(server, 1, 2)
    for user in (1, 2):  # cached, where there is a cache
        assert_agreed(client, server, users=(user,))
    for method, message in MOVES.items():
        moved = server.ask(method, message).message
        if method == "EnqueueTransfer":
            settle(str(moved.job_id))
        assert_agreed(client, server)
        moved_by_rest = decoded(post(client, ROUTE[method], REST_MOVES[ROUTE[method]]))
        if method == "EnqueueTransfer":
            settle(moved_by_rest["job_id"])
        assert_agreed(client, server)
    # 10000 and two of each: 67 in, and three times 67 out, of which half of the four transfers were jobs.
    assert read_by_grpc(server, BALANCE) == {"balance": 10_000 + 2 * 67 - 2 * 67 - 4 * 67}
    assert read_by_rest(client, BALANCE, 2) == {"balance": 10_000 + 4 * 67}
    check_books(engine)


def test_a_job_is_the_same_by_both_faces(
    server: GrpcServer, client: FlaskClient, settle: Callable[[str], None]
) -> None:
    by_rest, by_grpc = accept(client), server.ask("EnqueueTransfer", MOVES["EnqueueTransfer"]).message.job_id
    moved = server.ask("Deposit", MOVES["Deposit"]).message.transfer_id
    settle(by_rest)
    for job_id in (int(by_rest), by_grpc, moved):
        shown = answer(get(client, f"{JOBS}/{job_id}"))
        job = server.ask("GetJob", JobRequest(job_id=job_id)).message
        for name, value in shown.items():
            ours = getattr(job, name)
            assert (ours or None) == (int(value) if value and isinstance(ours, int) else value or None), name


def cached(redis_client: redis.Redis) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", redis_client.hgetall(f"{ENTRIES}1"))


@pytest.mark.parametrize("path", READS)
def test_what_one_face_has_cached_the_other_reads(
    shared: Shared, make_app: AppMaker, redis_client: redis.Redis, path: str, postgres: TcpProxy
) -> None:
    server = shared(DATABASE_URL=postgres.url)
    client = make_app(database_url=postgres.url).test_client()
    fund(server, 1, 2)
    assert server.ask("Transfer", MOVES["Transfer"]).message

    def fills(read: Callable[[], Json]) -> dict[bytes, bytes]:
        """Read until it is cached: a process whose Redis was emptied does not believe it for a while."""
        redis_client.delete(f"{ENTRIES}1")
        wait_for(lambda: bool(read()) and bool(cached(redis_client)))
        return cached(redis_client)

    fields: list[dict[bytes, bytes]] = []

    def fill_alike() -> bool:
        # Whoever comes to Redis anew may have begun a new epoch.
        fields[:] = fills(lambda: read_by_grpc(server, path)), fills(lambda: read_by_rest(client, path))
        return fields[0][b"epoch"] == fields[1][b"epoch"]

    wait_for(fill_alike)
    assert len(fields[0]) == 3  # what it is, which version of the wallet that is of, and the epoch
    assert fields[0] == fields[1]
    expected = read_by_rest(client, path)
    hits = metrics.cache_reads["hit"]._value.get()
    postgres.hold()  # so that nobody can have it from there
    try:
        assert read_by_grpc(server, path) == read_by_rest(client, path) == expected
    finally:
        postgres.resume()
    assert metrics.cache_reads["hit"]._value.get() == hits + 1
    assert cached(redis_client) == fields[1]


def test_a_wallet_that_is_frozen_by_rest_is_frozen_for_grpc(server: GrpcServer, client: FlaskClient) -> None:
    fund(server, 1, 2)
    freeze, body = "/api/wallets/v1/1/freeze", {"debits": True, "credits": True, "reason": "why"}
    answer(ask(client, "POST", freeze, user=ADMIN, body=body))
    refused(server.ask("Withdraw", AmountRequest(amount=1)), "wallet_frozen")
    refused(server.ask("Deposit", AmountRequest(amount=1)), "wallet_frozen")
    for method in TRANSFERS:
        paying = refused(server.ask(method, pays()), "wallet_frozen")
        paid = refused(server.ask(method, pays(destination_user_id=1), user=2), "wallet_frozen")
        assert ("The payer's wallet" in paying.details, "The payee's wallet" in paid.details) == (True, True)
    for _ in range(2):  # from PostgreSQL or from the cache, whoever has filled it
        balance = read_by_grpc(server, BALANCE)["balance"]
        assert answer(get(client, BALANCE)) == {"balance": balance, "frozen": {"debits": True, "credits": True}}
    answer(ask(client, "POST", "/api/wallets/v1/1/unfreeze", user=ADMIN))
    assert server.ask("Withdraw", AmountRequest(amount=1)).message.balance == balance - 1
