"""Transfers by the thousand over HTTP: what is taken, what is refused and in which words, and how they stand."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.services import MOST_BULKS
from observe import metrics
from tests.api.calls import (
    ADMIN,
    BALANCE,
    JOBS,
    MAX_INT64,
    TRANSFER,
    Json,
    answer,
    ask,
    get,
    is_id,
    is_instant,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.waiters import wait_for, waiting_clients
from tests.models.ledger.ordering import count_transfers, post_now

BULK = "/api/transfers/bulk/v1"
pytestmark = pytest.mark.usefixtures("funded")


def to(destination: int, amount: Any = 10, **more: Any) -> Json:
    return {"destination_user_id": destination, "amount": amount} | more


def send(client: FlaskClient, *transfers: Json, user: int = 1, key: str | None = None, **more: Any) -> Json:
    return answer(post(client, BULK, {"transfers": list(transfers)} | more, user=user, key=key), 202)


def test_all_of_it_is_accepted_at_once_and_each_is_followed_like_any_other(client: FlaskClient, engine: Engine) -> None:
    response = post(client, BULK, {"transfers": [to(2, 67, description="rent", reference="R-1"), to(2), to(9)]})
    body = answer(response, 202)
    assert is_id(body["bulk_id"])
    assert (body["count"], body["status_url"]) == (3, f"/api/bulks/v1/{body['bulk_id']}")
    assert (response.headers["Location"], response.headers["Retry-After"]) == (body["status_url"], "1")

    bulk = answer(get(client, body["status_url"]))
    assert is_instant(bulk.pop("created_at"))
    assert bulk == {
        "bulk_id": body["bulk_id"], "count": 3, "amount": 87, "atomic": False, "pending": 3, "posted": 0,
        "rejected": 0, "failed": 0, "canceled": 0, "completed_at": None,
    }  # fmt: skip
    with engine.connect() as connection:
        ids = list(connection.execute(text("SELECT id FROM transfers WHERE bulk_id > 0 ORDER BY id")).scalars())
    job = answer(get(client, f"{JOBS}/{ids[0]}"))
    assert (job["bulk_id"], job["description"], job["reference"], job["amount"]) == (body["bulk_id"], "rent", "R-1", 67)

    post_now(engine, ids)
    bulk = answer(get(client, body["status_url"]))
    assert (bulk["pending"], bulk["posted"], bulk["rejected"]) == (0, 2, 1)
    assert is_instant(bulk["completed_at"])
    assert answer(get(client, f"{JOBS}/{ids[2]}"))["reason"] == "wallet_not_found"


def test_to_others_it_does_not_exist(client: FlaskClient) -> None:
    url = send(client, to(2))["status_url"]
    assert answer(get(client, url, user=ADMIN))["count"] == 1
    problem(get(client, url, user=2), "bulk_not_found")
    for unknown in ("1", "0", "x", str(2**63)):
        problem(get(client, f"/api/bulks/v1/{unknown}"), "bulk_not_found")


def test_a_wait_is_answered_as_soon_as_all_of_it_is_final(
    app: Flask, client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = send(client, to(2), to(9))["status_url"]
    ids = transfers_of(engine, url)
    room = app.extensions["wallet"].waiting
    looks, find = list[set[int]](), room._find

    def look(bulk_ids: set[int]) -> set[int]:
        looks.append(bulk_ids)
        return find(bulk_ids)  # type: ignore[no-any-return]

    monkeypatch.setattr(room, "_find", look)
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(get, app.test_client(), f"{url}?wait=20")
        wait_for(lambda: waiting_clients(app) == 1)
        post_now(engine, ids[:1])
        seen = len(looks)
        wait_for(lambda: len(looks) > seen + 2)
        assert waiting_clients(app) == 1  # one of two has ended
        post_now(engine, ids[1:])
        bulk = answer(waiter.result())
    assert (bulk["pending"], bulk["posted"], bulk["rejected"]) == (0, 1, 1)
    assert waiting_clients(app) == 0


def test_what_is_final_is_not_waited_for_and_what_is_not_is_shown_when_the_time_is_over(
    client: FlaskClient, engine: Engine
) -> None:
    url = send(client, to(2))["status_url"]
    assert answer(get(client, f"{url}?wait=0.05"))["pending"] == 1
    problem(get(client, f"{url}?wait=20", user=2), "bulk_not_found")
    assert "wait" in problem(get(client, f"{url}?wait=21"), "bad_input")["detail"]
    post_now(engine, transfers_of(engine, url))
    assert answer(get(client, f"{url}?wait=20", user=ADMIN))["posted"] == 1


def transfers_of(engine: Engine, status_url: str) -> list[int]:
    query = text("SELECT id FROM transfers WHERE bulk_id = :id ORDER BY id")
    with engine.connect() as connection:
        return list(connection.execute(query, {"id": int(status_url.rpartition("/")[2])}).scalars())


@pytest.mark.parametrize(
    ("item", "code", "words"),
    [
        (to(2, 0), "invalid_amount", "transfers.1.amount"),
        (to(2, 1.5), "invalid_amount", "transfers.1.amount"),
        (to(2, "1"), "invalid_amount", "transfers.1.amount"),
        ({"amount": 1}, "bad_input", "transfers.1.destination_user_id"),
        (to(2, 1, sum=2), "bad_input", "transfers.1.sum"),
        (to(2, 1, description="a\nb"), "bad_input", "transfers.1.description"),
        (to(2, 1, metadata={"k": 1}), "bad_input", "transfers.1.metadata"),
        (to(1), "self_transfer_invalid", "transfers.1"),
        (5, "bad_input", "transfers.1"),
    ],
)
def test_what_is_wrong_with_one_is_told_by_its_index_and_nothing_is_accepted(
    client: FlaskClient, engine: Engine, item: Any, code: str, words: str
) -> None:
    refused = problem(post(client, BULK, {"transfers": [to(2), item, to(2)]}), code)
    assert words in refused["detail"]
    assert count_transfers(engine) == 2  # the deposits


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"transfers": []},
        {"transfers": {}},
        {"transfers": [to(2)], "atomic": 1},
        {"transfers": [to(2)], "atomic": "true"},
        {"transfers": [to(2)], "more": 1},
        {"transfers": [to(2)] * 10_001},
        {"transfers": [to(2)] * 1_001, "atomic": True},
    ],
)
def test_what_is_none_is_refused(client: FlaskClient, engine: Engine, body: Json) -> None:
    problem(post(client, BULK, body), "bad_input")
    assert count_transfers(engine) == 2


def test_what_no_wallet_can_hold_is_refused(client: FlaskClient, engine: Engine) -> None:
    problem(post(client, BULK, {"transfers": [to(2, MAX_INT64), to(2, 1)]}), "balance_overflow")
    assert count_transfers(engine) == 2


def test_ten_thousand_are_accepted_and_a_body_beyond_the_bound_is_not(make_app: AppMaker) -> None:
    client = make_app().test_client()
    answer(post(client, "/api/deposit/v1", {"amount": 1}))
    found = send(client, *[to(2, 1, reference=f"R-{number}") for number in range(10_000)])
    assert found["count"] == 10_000
    small = make_app(max_bulk_bytes=1_000).test_client()
    refused = problem(post(small, BULK, {"transfers": [to(2)] * 100}), "payload_too_large")
    assert "1000 bytes" in refused["detail"]
    problem(post(small, TRANSFER, to(2, 1, description="d" * 140, metadata={str(n): "v" * 499 for n in range(20)}) | {
        "reference": "r" * 20_000}), "payload_too_large")  # fmt: skip


def test_a_key_gives_the_first_answer_again(client: FlaskClient, engine: Engine) -> None:
    first = send(client, to(2), to(9), key="k")
    again = post(client, BULK, json.dumps({"atomic": False, "transfers": [to(2), to(9)]}).encode(), key="k")
    assert answer(again, 202) == first
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count_transfers(engine) == 2 + 2
    problem(post(client, BULK, {"transfers": [to(2)]}, key="k"), "idempotency_key_reused")
    problem(post(client, TRANSFER, to(2), key="k"), "idempotency_key_reused")


def test_an_atomic_one_says_so_and_its_items_are_bulk_rejected(client: FlaskClient, engine: Engine) -> None:
    found = send(client, to(2, 9_999), to(2, 2), atomic=True)
    assert answer(get(client, found["status_url"]))["atomic"] is True
    assert answer(get(client, BALANCE))["balance"] == 10_000
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM transfers WHERE bulk_id > 0")).scalar_one() == 2


def test_one_of_it_is_canceled_by_itself_but_none_of_an_atomic_one(client: FlaskClient, engine: Engine) -> None:
    for atomic in (False, True):
        url = send(client, to(2), to(2), atomic=atomic)["status_url"]
        canceled = ask(client, "POST", f"{JOBS}/{transfers_of(engine, url)[-1]}/cancel")
        if atomic:
            assert "atomic bulk" in problem(canceled, "not_cancelable")["detail"]
        else:
            assert answer(canceled)["status"] == "canceled"
        assert answer(get(client, url))["canceled"] == int(not atomic)


def test_who_has_no_wallet_sends_nothing(client: FlaskClient) -> None:
    problem(post(client, BULK, {"transfers": [to(2)]}, user=77), "wallet_not_found")
    problem(ask(client, "POST", BULK, user=None, body={"transfers": [to(2)]}), "unauthorized")


def test_a_process_takes_few_at_a_time(make_app: AppMaker) -> None:
    app = make_app()
    services: Any = app.extensions["wallet"]
    client = app.test_client()
    answer(post(client, "/api/deposit/v1", {"amount": 1}))
    with ExitStack() as others:
        for _ in range(MOST_BULKS):
            others.enter_context(services.bulk_seats.taken())
        turned_away = metrics.shed["bulks"]._value.get()
        assert "nothing moved" in problem(post(client, BULK, {"transfers": [to(2)]}), "unavailable")["detail"]
        assert metrics.shed["bulks"]._value.get() == turned_away + 1
    send(client, to(2))
    send(client, to(2))
