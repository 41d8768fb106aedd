"""Idempotency-Key: the first answer again, and nothing moves twice."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from tests.api.calls import (
    DEPOSIT,
    JOBS,
    MOVES,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    accept,
    answer,
    balance_of,
    fund,
    get,
    post,
    problem,
)
from tests.api.waiters import wait_for
from tests.conftest import Books

EVERY_MOVE = pytest.mark.parametrize("path", MOVES)
# What each call refuses while users 1 and 2 have 10000 cents each: what is different, and the code.
REFUSED = {
    DEPOSIT: [({"amount": 2**63 - 1}, "balance_overflow")],
    WITHDRAW: [({"amount": 10_001}, "balance_insufficient")],
    TRANSFER: [
        ({"amount": 10_001}, "balance_insufficient"),
        ({"destination_user_id": 3}, "wallet_not_found"),
        ({"destination_user_id": 1}, "self_transfer_invalid"),
    ],
}
REFUSED[TRANSFER_LATER] = REFUSED[TRANSFER]


def is_replay(response: TestResponse) -> bool:
    """Whether the answer is marked as one given before."""
    return response.headers.get("Idempotency-Replayed") == "true"


def sessions_waiting_for_locks(engine: Engine) -> int:
    """Return how many sessions of this database wait for a lock right now."""
    with engine.connect() as connection:
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(connection.execute(waiting).scalar_one())


@EVERY_MOVE
def test_the_same_request_gets_the_first_answer_again_and_moves_nothing(
    funded: FlaskClient, books: Callable[[], Books], path: str
) -> None:
    first = post(funded, path, MOVES[path], key="k")
    assert first.status_code in {200, 202}
    assert "Idempotency-Replayed" not in first.headers
    fund(funded, 1, amount=5)  # what happens in between does not show
    before = books()
    for _ in range(2):
        again = post(funded, path, MOVES[path], key="k")
        assert is_replay(again)
        assert (again.status_code, again.data) == (first.status_code, first.data)
        assert again.headers.get("Location") == first.headers.get("Location")
    assert books() == before


@EVERY_MOVE
def test_without_a_key_every_request_is_a_new_one(funded: FlaskClient, books: Callable[[], Books], path: str) -> None:
    before = len(books().transfers)
    responses = [post(funded, path, MOVES[path]) for _ in range(2)]
    assert not any(map(is_replay, responses))
    assert len(books().transfers) == before + 2


@EVERY_MOVE
def test_the_body_counts_as_it_is_parsed(funded: FlaskClient, path: str) -> None:
    body = MOVES[path]
    first = post(funded, path, body, key="k")
    spelled_otherwise: dict[str, object] = dict(reversed(body.items()))
    if "destination_user_id" in body:
        spelled_otherwise["destination_user_id"] = "2"
    again = post(funded, path, json.dumps(spelled_otherwise, indent=8).encode(), key="k")
    assert is_replay(again)
    assert again.data == first.data


@EVERY_MOVE
@pytest.mark.parametrize("change", [{"amount": 68}, {"destination_user_id": 3}], ids=repr)
def test_another_body_under_the_same_key_is_refused(
    funded: FlaskClient, books: Callable[[], Books], path: str, change: dict[str, int]
) -> None:
    if not change.keys() <= MOVES[path].keys():
        change = {"amount": 1}
    fund(funded, 3)
    post(funded, path, MOVES[path], key="k")
    before = books()
    problem(post(funded, path, MOVES[path] | change, key="k"), "idempotency_key_reused")
    assert books() == before


@EVERY_MOVE
def test_another_call_under_the_same_key_is_refused(funded: FlaskClient, books: Callable[[], Books], path: str) -> None:
    post(funded, path, MOVES[path], key="k")
    before = books()
    for other in MOVES.keys() - {path}:
        problem(post(funded, other, MOVES[other], key="k"), "idempotency_key_reused")
    assert is_replay(post(funded, path, MOVES[path], key="k"))
    assert books() == before


@EVERY_MOVE
def test_a_reused_key_is_told_even_when_the_new_request_would_be_refused_anyway(funded: FlaskClient, path: str) -> None:
    post(funded, path, MOVES[path], key="k")
    for change, _ in REFUSED[path]:
        problem(post(funded, path, MOVES[path] | change, key="k"), "idempotency_key_reused")


@pytest.mark.parametrize("path", [WITHDRAW, TRANSFER, TRANSFER_LATER])
def test_a_replay_comes_before_every_business_check(funded: FlaskClient, path: str) -> None:
    first = post(funded, path, MOVES[path], key="k")
    answer(post(funded, WITHDRAW, {"amount": balance_of(funded, 1)}))  # nothing is left to pay with
    again = post(funded, path, MOVES[path], key="k")
    assert is_replay(again)
    assert again.data == first.data


@EVERY_MOVE
def test_the_keys_of_two_users_are_two_keys(funded: FlaskClient, path: str) -> None:
    fund(funded, 3)
    first = post(funded, path, MOVES[path], key="k")
    other = post(funded, path, MOVES[path], key="k", user=3)
    assert other.status_code == first.status_code
    assert not is_replay(other)
    assert other.data != first.data


def test_the_payees_keys_are_not_the_payers(funded: FlaskClient) -> None:
    post(funded, TRANSFER, {"destination_user_id": 2, "amount": 67}, key="k")
    assert not is_replay(post(funded, DEPOSIT, {"amount": 67}, user=2, key="k"))


def test_keys_are_compared_exactly(funded: FlaskClient) -> None:
    keys = ["k", "K", "k" * 255, "k" * 254, "k k", "\xe9", "e"]
    bodies = [answer(post(funded, DEPOSIT, {"amount": 1}, key=key)) for key in keys]
    assert len({body["transfer_id"] for body in bodies}) == len(keys)


@EVERY_MOVE
def test_a_refused_request_binds_no_key(funded: FlaskClient, path: str) -> None:
    for change, code in [({"amount": 0}, "invalid_amount"), ({"x": 1}, "bad_input"), *REFUSED[path]]:
        problem(post(funded, path, MOVES[path] | change, key="k"), code)
    response = post(funded, path, MOVES[path], key="k")
    assert response.status_code in {200, 202}
    assert not is_replay(response)


def test_the_very_request_that_was_refused_may_be_tried_again_under_its_key(client: FlaskClient) -> None:
    problem(post(client, WITHDRAW, {"amount": 67}, key="k"), "wallet_not_found")
    fund(client, 1, amount=66)
    problem(post(client, WITHDRAW, {"amount": 67}, key="k"), "balance_insufficient")
    fund(client, 1, amount=1)
    assert answer(post(client, WITHDRAW, {"amount": 67}, key="k"))["balance"] == 0


def test_a_job_that_was_accepted_and_later_rejected_keeps_its_key(
    funded: FlaskClient, settle: Callable[[str], None]
) -> None:
    body = {"destination_user_id": 2, "amount": 10_000}
    first = post(funded, TRANSFER_LATER, body, key="k")
    job_id = answer(first, 202)["job_id"]
    answer(post(funded, WITHDRAW, {"amount": 1}))
    settle(job_id)
    assert answer(get(funded, f"{JOBS}/{job_id}"))["status"] == "rejected"
    fund(funded, 1)  # now it could be paid
    again = post(funded, TRANSFER_LATER, body, key="k")
    assert is_replay(again)
    assert (again.status_code, again.data) == (202, first.data)


def test_a_replayed_v2_stays_one_job(funded: FlaskClient, settle: Callable[[str], None]) -> None:
    job_id = accept(funded, key="k")
    assert accept(funded, key="k") == job_id
    settle(job_id)
    assert accept(funded, key="k") == job_id
    assert balance_of(funded, 1) == 9_933


@EVERY_MOVE
def test_of_several_at_once_one_wins_and_the_others_get_its_answer(
    app: Flask, books: Callable[[], Books], path: str
) -> None:
    fund(app.test_client(), 1, 2)
    before = len(books().transfers)
    together = Barrier(4)

    def send(_number: int) -> TestResponse:
        client = app.test_client()
        together.wait(timeout=30)
        return post(client, path, MOVES[path], key="k")

    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(send, range(4)))
    assert {response.status_code for response in responses} == {202 if path == TRANSFER_LATER else 200}
    assert len({response.data for response in responses}) == 1
    assert sorted(map(is_replay, responses)) == [False, True, True, True]
    assert len(books().transfers) == before + 1


@pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW, TRANSFER])
def test_the_loser_waits_for_a_winner_that_has_not_committed(app: Flask, engine: Engine, path: str) -> None:
    client = app.test_client()
    fund(client, 1, 2)
    with ThreadPoolExecutor() as pool:
        with engine.begin() as connection:
            # The winner has inserted its transfer and waits for this lock; the loser waits for the winner.
            connection.execute(text("SELECT FROM wallets WHERE id = 1 FOR UPDATE"))
            both = [pool.submit(post, app.test_client(), path, MOVES[path], key="k") for _ in range(2)]
            wait_for(lambda: sessions_waiting_for_locks(engine) == 2)
            assert not any(each.done() for each in both)
        responses = [each.result() for each in both]
    assert sorted(map(is_replay, responses)) == [False, True]
    assert responses[0].data == responses[1].data
