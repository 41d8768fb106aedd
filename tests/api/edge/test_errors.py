"""Every fault is a problem of the contract's table, and says whether money moved."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.calls.problems import PROBLEMS
from api.direct import Answer
from models.ledger.history import History
from observe import metrics
from tests.api.calls import (
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MOVES,
    STATUS_OF,
    TRANSFER_LATER,
    WITHDRAW,
    answer,
    ask,
    balance_of,
    decode,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker, lose_reply_and_refuse
from tests.conftest import Books
from tests.proxy import TcpProxy

EVERY_MOVE = pytest.mark.parametrize("path", MOVES)
# What makes the transfer durable: v2 inserts in one statement, the others commit a transaction.
COMMITS = pytest.mark.parametrize(
    ("path", "commit"),
    [(path, b"INSERT INTO transfers" if path == TRANSFER_LATER else b"COMMIT") for path in MOVES],
)
# How far a move gets the balance of user 1, who begins with 10000.
BALANCE_AFTER = {DEPOSIT: 10_067, TRANSFER_LATER: 10_000}


def test_the_table_is_the_contracts() -> None:
    assert {problem.code: problem.status for problem in PROBLEMS.values()} == STATUS_OF


NOWHERE = (
    "/",
    "/api",
    "/api/deposit",
    "/api/deposit/v2",
    "/api/deposit/v1/",
    "/API/deposit/v1",
    "/%00",
    "/%ff",
    "/a//b",
)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_where_nothing_is_the_answer_is_not_found(client: FlaskClient, method: str) -> None:
    for path in NOWHERE:
        problem(ask(client, method, path), "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(path, {"POST", "OPTIONS"}) for path in MOVES]
    + [(path, {"GET", "HEAD", "OPTIONS"}) for path in (BALANCE, HISTORY, f"{JOBS}/1", "/healthz", "/readyz")],
)
def test_a_wrong_method_is_told_the_right_ones(funded: FlaskClient, path: str, allowed: set[str]) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"} - allowed:
        response = ask(funded, method, path)
        problem(response, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed
    assert balance_of(funded, 1) == 10_000


@pytest.mark.parametrize(
    ("path", "amount", "code"),
    [(WITHDRAW, 10_001, "balance_insufficient"), (DEPOSIT, 2**63 - 10_000, "balance_overflow")],
)
def test_a_business_no_moves_nothing(
    funded: FlaskClient, books: Callable[[], Books], path: str, amount: int, code: str
) -> None:
    before = books()
    problem(post(funded, path, {"amount": amount}), code)
    assert books() == before


@EVERY_MOVE
def test_with_postgresql_gone_a_move_is_unavailable_and_nothing_moved(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, books: Callable[[], Books], path: str
) -> None:
    before = books()
    postgres_proxy.refuse()
    # v2 sends its only statement on a connection from the pool, and cannot know that it was dead already.
    first = post(cut_client, path, MOVES[path], key="k")
    if path == TRANSFER_LATER and "transfer_id" in (body := decode(first.data)):
        problem(first, "outcome_unknown", transfer_id=body["transfer_id"])
    else:
        problem(first, "unavailable")
    problem(post(cut_client, path, MOVES[path], key="k"), "unavailable")
    postgres_proxy.refuse(refusing=False)
    assert books() == before
    assert post(cut_client, path, MOVES[path], key="k").status_code in {200, 202}  # and it works again


@pytest.mark.parametrize("path", [BALANCE, HISTORY, f"{JOBS}/1", f"{JOBS}/1?wait=20"])
def test_with_postgresql_gone_a_read_is_unavailable(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, path: str
) -> None:
    postgres_proxy.refuse()
    problem(get(cut_client, path), "unavailable")


@pytest.mark.parametrize("path", [*MOVES, BALANCE, HISTORY])
def test_a_connection_that_died_while_idle_costs_no_request(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, path: str
) -> None:
    postgres_proxy.break_all()
    response = post(cut_client, path, MOVES[path]) if path in MOVES else get(cut_client, path)
    assert response.status_code in {200, 202}


@COMMITS
def test_a_lost_reply_to_the_commit_is_looked_up_and_the_money_moves_once(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, path: str, commit: bytes
) -> None:
    postgres_proxy.lose_reply_to(lambda data: commit in data)
    response = post(cut_client, path, MOVES[path])
    assert postgres_proxy.cuts == 1
    assert response.status_code in {200, 202}
    assert "Idempotency-Replayed" not in response.headers
    assert balance_of(cut_client, 1) == BALANCE_AFTER.get(path, 9_933)


@COMMITS
def test_a_lost_reply_that_cannot_be_looked_up_is_outcome_unknown_with_the_transfer_id(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, path: str, commit: bytes
) -> None:
    lose_reply_and_refuse(postgres_proxy, commit)
    response = post(cut_client, path, MOVES[path], key="k")
    transfer_id = decode(response.data).get("transfer_id")
    problem(response, "outcome_unknown", transfer_id=transfer_id)
    postgres_proxy.refuse(refusing=False)
    # Both of the ways out that the contract names: the jobs endpoint, and the same key again.
    status = "pending" if path == TRANSFER_LATER else "posted"
    assert answer(get(cut_client, f"{JOBS}/{transfer_id}"))["status"] == status
    again = post(cut_client, path, MOVES[path], key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    body = decode(again.data)
    assert body.get("job_id", body.get("transfer_id")) == transfer_id
    assert balance_of(cut_client, 1) == BALANCE_AFTER.get(path, 9_933)


@pytest.mark.parametrize("path", [path for path in MOVES if path != TRANSFER_LATER])
def test_a_wallet_locked_for_too_long_is_unavailable_and_nothing_moved(
    make_app: AppMaker, engine: Engine, books: Callable[[], Books], path: str
) -> None:
    client = make_app(lock_timeout_ms=50).test_client()
    fund(client, 1, 2)
    before = books()
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM wallets WHERE id = 1 FOR UPDATE"))
        problem(post(client, path, MOVES[path]), "unavailable")
    assert books() == before


def test_v2_waits_for_no_wallet(make_app: AppMaker, engine: Engine) -> None:
    client = make_app(lock_timeout_ms=50).test_client()
    fund(client, 1, 2)
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM wallets FOR UPDATE"))
        answer(post(client, TRANSFER_LATER, MOVES[TRANSFER_LATER]), 202)


def test_a_defect_of_ours_is_unavailable_and_tells_nothing_of_itself(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_arguments: Any) -> int:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(History, "get_balance", explode)
    response = get(client, BALANCE)
    problem(response, "unavailable")
    assert b"secret" not in response.data


def test_a_fault_tells_nothing_of_the_database(cut_client: FlaskClient, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    said = get(cut_client, BALANCE).data.decode()
    assert not re.search(r"postgres|psycopg|sqlalchemy|SELECT|127\.0\.0\.1", said)


def breaks(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("told to")


def assert_unknown_and_done_once(client: FlaskClient, path: str, first: Any) -> None:
    """The answer is that the outcome is not known, it can be looked up, and repeating it moves nothing more."""
    transfer_id = decode(first.data)["transfer_id"]
    problem(first, "outcome_unknown", transfer_id=transfer_id)
    status = "pending" if path == TRANSFER_LATER else "posted"
    assert answer(get(client, f"{JOBS}/{transfer_id}"))["status"] == status
    again = answer(post(client, path, MOVES[path], key="k"), 202 if path == TRANSFER_LATER else 200)
    assert transfer_id in {again.get("transfer_id"), again.get("job_id")}
    assert balance_of(client, 1) == BALANCE_AFTER.get(path, 9_933)


@EVERY_MOVE
def test_a_defect_in_counting_a_transfer_is_no_reason_to_say_that_nothing_moved(
    funded: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(metrics, "transfers", {})
        first = post(funded, path, MOVES[path], key="k")
    assert_unknown_and_done_once(funded, path, first)


@EVERY_MOVE
def test_a_defect_in_writing_the_answer_is_no_reason_to_say_that_nothing_moved(
    funded: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Answer, "of", breaks)
        first = post(funded, path, MOVES[path], key="k")
    assert_unknown_and_done_once(funded, path, first)


@EVERY_MOVE
def test_a_defect_in_what_is_done_to_every_response_is_no_reason_to_say_that_nothing_moved(
    funded: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    failures = [1]

    def fail_once(response: Any) -> Any:
        return breaks() if failures and failures.pop() else response

    hooks = funded.application.after_request_funcs
    with monkeypatch.context() as broken:
        broken.setitem(hooks, None, [*hooks.get(None, []), fail_once])
        # What is asked for by a page of another site is answered by way of Flask.
        first = post(funded, path, MOVES[path], key="k", headers={"Origin": "http://127.0.0.1:8080"})
    assert failures == []
    assert_unknown_and_done_once(funded, path, first)


@EVERY_MOVE
def test_a_defect_before_the_order_means_that_nothing_moved(
    funded: FlaskClient, monkeypatch: pytest.MonkeyPatch, books: Callable[[], Books], path: str
) -> None:
    before = books()
    with monkeypatch.context() as broken:
        broken.setattr("api.views.transfers.refuse_query", breaks)
        broken.setattr("api.views.wallets.refuse_query", breaks)
        response = post(funded, path, MOVES[path], key="k")
    problem(response, "unavailable")
    assert "Nothing moved" in decode(response.data)["detail"]
    assert books() == before
