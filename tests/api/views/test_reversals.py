"""Giving back what was paid, over HTTP: who may, what is answered, and what is refused in which words."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.calls import ADMIN, DEPOSIT, JOBS, TRANSFER, TRANSFER_LATER, WITHDRAW, ask, fund, problem


@pytest.fixture(autouse=True)
def hundreds(client: FlaskClient) -> None:
    """Users 1 and 2 have 100 cents each."""
    fund(client, 1, 2, amount=100)


def move(client: FlaskClient, path: str, amount: int, *, user: int = 1, to: int | None = None) -> str:
    """Return the id of a deposit, a withdrawal or a transfer."""
    body: dict[str, Any] = {"amount": amount} | ({} if to is None else {"destination_user_id": to})
    answer = ask(client, "POST", path, user=user, body=body).json
    assert answer is not None
    return str(answer.get("transfer_id") or answer["job_id"])


def reverse(client: FlaskClient, transfer_id: str, body: Any = None, *, user: int | str = 2, **how: Any) -> Any:
    return ask(client, "POST", f"/api/transfers/v1/{transfer_id}/reverse", user=user, body=body, **how)


def test_who_was_paid_gives_back_a_part_and_then_the_rest(client: FlaskClient) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    half = reverse(client, paid, {"amount": 30, "description": "half of it", "reference": "R-1"})
    assert (half.status_code, half.json["success"], half.json["balance"]) == (200, True, 130)  # 100 + 60 - 30

    resource = ask(client, "GET", f"{JOBS}/{half.json['transfer_id']}", user=1).json
    assert resource is not None
    assert (resource["kind"], resource["reverses"], resource["amount"]) == ("transfer", paid, 30)
    assert (resource["description"], resource["reference"]) == ("half of it", "R-1")
    original = ask(client, "GET", f"{JOBS}/{paid}", user=1).json
    assert original is not None
    assert (original["reversed_amount"], original["status"], original["reverses"]) == (30, "posted", None)

    assert reverse(client, paid).json["balance"] == 100  # without a body: the rest
    refused = problem(reverse(client, paid, {}), "reversal_exceeds")
    assert "left=0" in refused["detail"]


@pytest.mark.parametrize("amount", [0, -1, 1.0, "1", True, None, 2**63])
def test_an_amount_that_is_none_gives_nothing_back(client: FlaskClient, amount: Any) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    problem(reverse(client, paid, {"amount": amount}), "invalid_amount")
    assert ask(client, "GET", f"{JOBS}/{paid}").json["reversed_amount"] is None  # type: ignore[index]


@pytest.mark.parametrize("body", [b"", b"[]", b"no", {"sum": 1}, {"amount": 1, "metadata": {"k": 1}}])
def test_what_cannot_be_read_gives_nothing_back(client: FlaskClient, body: Any) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    answer = reverse(client, paid, body)
    if body == b"":
        assert answer.json["balance"] == 100  # nothing sent is no amount: all of it
    else:
        problem(answer, "bad_input")


def test_who_paid_may_not_and_to_others_it_does_not_exist(client: FlaskClient) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    problem(reverse(client, paid, user=1), "forbidden")
    problem(reverse(client, paid, user=3), "job_not_found")
    for unknown in ("1", "0", "x", str(2**63)):
        problem(reverse(client, unknown), "job_not_found")
    problem(ask(client, "POST", f"/api/transfers/v1/{paid}/reverse", user=None), "unauthorized")


def test_deposits_and_withdrawals_are_an_administrators_to_reverse(client: FlaskClient) -> None:
    brought, taken = move(client, DEPOSIT, 30), move(client, WITHDRAW, 20)
    for transfer_id in (brought, taken):
        problem(reverse(client, transfer_id, user=1), "forbidden")
    assert reverse(client, brought, user=ADMIN).json["balance"] == 80  # 100 + 30 - 20 - 30
    assert reverse(client, taken, {"amount": 5}, user=ADMIN).json["balance"] == 85
    paid = move(client, TRANSFER, 60, to=2)
    assert reverse(client, paid, user=ADMIN).json["balance"] == 100  # of who gives it back


def test_another_sites_page_may_not_in_an_administrators_name(client: FlaskClient) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    answer = reverse(client, paid, user=ADMIN, headers={"Origin": "https://elsewhere.example"})
    problem(answer, "forbidden")


def test_what_was_not_posted_and_what_is_a_reversal_are_not_reversible(client: FlaskClient) -> None:
    waiting = move(client, TRANSFER_LATER, 10, to=2)
    problem(reverse(client, waiting), "not_reversible")
    given_back = reverse(client, move(client, TRANSFER, 10, to=2)).json["transfer_id"]
    problem(reverse(client, given_back, user=1), "not_reversible")


def test_a_key_gives_the_first_answer_again_whatever_is_left_by_then(client: FlaskClient) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    first = reverse(client, paid, key="refund")
    again = reverse(client, paid, {}, key="refund")
    assert again.json == first.json
    assert (again.headers.get("Idempotency-Replayed"), first.headers.get("Idempotency-Replayed")) == ("true", None)
    problem(reverse(client, paid, {"amount": 60}, key="refund"), "idempotency_key_reused")
    # A refusal binds no key.
    problem(reverse(client, paid, {"amount": 1}, key="more"), "reversal_exceeds")
    other = move(client, TRANSFER, 5, to=2)
    assert reverse(client, other, {"amount": 1}, key="more").status_code == 200


def is_replay(answer: Any) -> bool:
    return bool(answer.headers.get("Idempotency-Replayed") == "true")


@pytest.mark.parametrize("is_users_first", [True, False])
def test_an_administrators_key_is_not_that_of_who_was_paid(client: FlaskClient, is_users_first: bool) -> None:
    paid = move(client, TRANSFER, 60, to=2)

    def of_user() -> Any:
        return ask(client, "POST", DEPOSIT, user=2, body={"amount": 5}, key="k")

    def of_administrator() -> Any:
        return reverse(client, paid, {"amount": 10}, user=ADMIN, key="k")

    calls = [of_user, of_administrator] if is_users_first else [of_administrator, of_user]
    first = [call() for call in calls]
    again = [call() for call in calls]
    assert [(each.status_code, is_replay(each)) for each in first] == [(200, False)] * 2
    assert [is_replay(each) for each in again] == [True, True]
    assert [each.json for each in again] == [each.json for each in first]
    found = ask(client, "GET", "/api/transfers/v1?idempotency_key=k", user=2).json
    assert found is not None
    assert [each["kind"] for each in found["transfers"]] == ["deposit"]


def test_an_administrator_uses_a_key_for_one_reversal_whoever_was_paid(client: FlaskClient) -> None:
    paid = [move(client, TRANSFER, 10, to=2), move(client, TRANSFER, 10, user=2, to=1)]
    first = reverse(client, paid[0], user=ADMIN, key="k")
    assert first.status_code == 200
    refused = problem(reverse(client, paid[1], user=ADMIN, key="k"), "idempotency_key_reused")
    assert refused["transfer_id"] == first.json["transfer_id"]
    assert ask(client, "GET", f"{JOBS}/{paid[1]}").json["reversed_amount"] is None  # type: ignore[index]


def test_who_has_spent_it_is_told_so(client: FlaskClient) -> None:
    paid = move(client, TRANSFER, 60, to=2)
    move(client, WITHDRAW, 160, user=2)
    problem(reverse(client, paid), "balance_insufficient")
