"""Deposit, withdrawal, balance and history."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.calls import (
    BALANCE,
    DEPOSIT,
    HISTORY,
    MAX_INT64,
    MOVES,
    TRANSFER,
    WITHDRAW,
    answer,
    balance_of,
    fund,
    get,
    is_id,
    is_instant,
    post,
    problem,
)


def test_a_deposit_opens_the_wallet_and_answers_balance_and_transfer_id(client: FlaskClient) -> None:
    problem(get(client, BALANCE), "wallet_not_found")
    first = answer(post(client, DEPOSIT, {"amount": 100}))
    assert first == {"balance": 100, "transfer_id": first["transfer_id"]}
    assert is_id(first["transfer_id"])
    second = answer(post(client, DEPOSIT, {"amount": 67}))
    assert second == {"balance": 167, "transfer_id": second["transfer_id"]}
    assert second["transfer_id"] != first["transfer_id"]


def test_a_withdrawal_answers_balance_and_transfer_id(client: FlaskClient) -> None:
    fund(client, 1, amount=100)
    body = answer(post(client, WITHDRAW, {"amount": 67}))
    assert body == {"balance": 33, "transfer_id": body["transfer_id"]}
    assert is_id(body["transfer_id"])


def test_a_wallet_can_be_emptied_to_the_last_cent(client: FlaskClient) -> None:
    fund(client, 1, amount=100)
    assert answer(post(client, WITHDRAW, {"amount": 100}))["balance"] == 0
    assert balance_of(client, 1) == 0


def test_the_balance_is_an_integer_of_cents(funded: FlaskClient) -> None:
    assert answer(get(funded, BALANCE)) == {"balance": 10_000}


def test_the_largest_amount_and_the_largest_user_id_are_exact(client: FlaskClient) -> None:
    body = answer(post(client, DEPOSIT, {"amount": MAX_INT64}, user=MAX_INT64))
    assert body["balance"] == MAX_INT64
    assert balance_of(client, MAX_INT64) == MAX_INT64


@pytest.mark.parametrize("path", MOVES)
def test_head_and_other_methods_move_nothing(funded: FlaskClient, path: str) -> None:
    assert funded.head(path, headers={"Authorization": "1"}).status_code == 405
    assert balance_of(funded, 1) == 10_000


@pytest.mark.parametrize("path", [BALANCE, HISTORY, WITHDRAW, TRANSFER, "/api/transfer/v2"])
def test_whoever_has_no_wallet_gets_404_from_all_but_a_deposit(client: FlaskClient, path: str) -> None:
    fund(client, 2)
    response = post(client, path, MOVES[path]) if path in MOVES else get(client, path)
    problem(response, "wallet_not_found")


def page(client: FlaskClient, query: str = "", *, user: int = 1) -> dict[str, Any]:
    """Return a page of the history."""
    return answer(get(client, f"{HISTORY}?{query}" if query else HISTORY, user=user))


def test_the_history_has_every_field_of_every_kind_newest_first(client: FlaskClient) -> None:
    fund(client, 1, 2, amount=100)
    withdrawal = answer(post(client, WITHDRAW, {"amount": 30}))["transfer_id"]
    paid = answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": 20}))["transfer_id"]
    got = answer(post(client, TRANSFER, {"destination_user_id": 1, "amount": 5}, user=2))["transfer_id"]
    body = page(client)
    rows = body.pop("transactions")
    assert body == {"statement_balance": 55, "page": 1, "page_size": 30, "has_more": False, "next_cursor": None}
    assert [(r["type"], r["transaction_type"], r["amount"], r["balance_after"]) for r in rows] == [
        (3, "transfer", 5, 55),  # 50 + 5
        (3, "transfer", -20, 50),  # 70 - 20
        (2, "withdraw", -30, 70),  # 100 - 30
        (1, "deposit", 100, 100),
    ]
    assert [r["transfer_id"] for r in rows[:3]] == [got, paid, withdrawal]
    assert [r["counterparty_user_id"] for r in rows] == ["2", "2", None, None]
    assert [r["desc"] for r in rows] == ["transfer from user 2", "transfer to user 2", "withdraw", "deposit"]
    assert len({r["transaction_id"] for r in rows}) == 4
    for row in rows:
        assert row.keys() == {
            "transaction_id",
            "transfer_id",
            "type",
            "transaction_type",
            "amount",
            "balance_after",
            "counterparty_user_id",
            "desc",
            "reference",
            "created_at",
        }
        assert isinstance(row["transaction_id"], str)
        assert is_id(row["transfer_id"])
        assert is_instant(row["created_at"])


def test_both_parties_of_a_transfer_see_it_under_one_transfer_id(funded: FlaskClient) -> None:
    answer(post(funded, TRANSFER, {"destination_user_id": 2, "amount": 20}))
    mine, theirs = page(funded)["transactions"][0], page(funded, user=2)["transactions"][0]
    assert mine["transfer_id"] == theirs["transfer_id"]
    assert (mine["amount"], theirs["amount"]) == (-20, 20)
    assert mine["transaction_id"] != theirs["transaction_id"]


@pytest.mark.parametrize(
    ("kind", "amounts"),
    [(0, [-3, -2, 1]), (1, [1]), (2, [-2]), (3, [-3])],
)
def test_the_history_filters_by_type(client: FlaskClient, kind: int, amounts: list[int]) -> None:
    fund(client, 2)
    fund(client, 1, amount=1)
    fund(client, 1, amount=9)
    post(client, WITHDRAW, {"amount": 2})
    post(client, TRANSFER, {"destination_user_id": 2, "amount": 3})
    expected = [each for each in amounts if each != 1] + ([9, 1] if 1 in amounts else [])
    assert [row["amount"] for row in page(client, f"type={kind}")["transactions"]] == expected


@pytest.mark.parametrize("query", ["", "type=1&"])
def test_pages_cover_the_history_without_gaps(client: FlaskClient, query: str) -> None:
    for amount in range(1, 8):
        fund(client, 1, amount=amount)
    pages = [page(client, f"{query}page={number}&page_size=3") for number in (1, 2, 3, 4)]
    assert [[row["amount"] for row in each["transactions"]] for each in pages] == [[7, 6, 5], [4, 3, 2], [1], []]
    assert [each["has_more"] for each in pages] == [True, True, False, False]
    assert [each["page"] for each in pages] == [1, 2, 3, 4]
    assert {each["statement_balance"] for each in pages} == {28}  # 1 + 2 + … + 7


@pytest.mark.parametrize("query", ["", "type=1&"])
def test_a_cursor_walks_on_without_gaps_or_repeats_while_rows_arrive(client: FlaskClient, query: str) -> None:
    for amount in range(1, 8):
        fund(client, 1, amount=amount)
    seen: list[int] = []
    body = page(client, f"{query}page_size=2")
    while True:
        seen += [row["amount"] for row in body["transactions"]]
        fund(client, 1, amount=100)  # shifts every page
        if not body["has_more"]:
            break
        assert is_id(body["next_cursor"])
        body = page(client, f"{query}page_size=2&cursor={body['next_cursor']}")
        assert body["page"] is None
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    assert body["next_cursor"] is None


@pytest.mark.parametrize("number", [1, 2, 10**12])
def test_a_cursor_goes_before_a_page(client: FlaskClient, number: int) -> None:
    for amount in (1, 2, 3):
        fund(client, 1, amount=amount)
    body = page(client, f"page={number}&page_size=1&cursor=3")
    assert ([row["amount"] for row in body["transactions"]], body["page"]) == ([2], None)


def test_a_page_size_of_100_is_served_and_exactly_full_pages_end(client: FlaskClient) -> None:
    fund(client, 1, amount=1)
    assert page(client, "page_size=100")["page_size"] == 100
    assert page(client, "page_size=1")["has_more"] is False
    assert page(client, "page=1000000000000")["transactions"] == []
