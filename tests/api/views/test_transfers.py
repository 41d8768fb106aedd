"""Transfers: v1 answers after the money has moved, v2 once the transfer is durable."""

from collections.abc import Callable

import pytest
import redis
from flask.testing import FlaskClient

from ops.local.processes import wait_for
from tests.api.calls import (
    JOBS,
    MAX_INT64,
    TRANSFER,
    TRANSFER_LATER,
    Json,
    accept,
    answer,
    balance_of,
    fund,
    get,
    is_id,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.conftest import Books
from tests.patience import PATIENCE_S
from tests.proxy import TcpProxy

BOTH = pytest.mark.parametrize("path", [TRANSFER, TRANSFER_LATER])


def test_v1_answers_after_the_money_has_moved(funded: FlaskClient) -> None:
    body = answer(post(funded, TRANSFER, {"destination_user_id": 2, "amount": 1003}))
    assert body == {"success": True, "transfer_id": body["transfer_id"], "balance": 8997}  # 10000 - 1003
    assert is_id(body["transfer_id"])
    assert (balance_of(funded, 1), balance_of(funded, 2)) == (8997, 11_003)


def test_v2_answers_where_to_follow_the_job_and_moves_nothing_yet(funded: FlaskClient) -> None:
    response = post(funded, TRANSFER_LATER, {"destination_user_id": 2, "amount": 1003})
    body = answer(response, 202)
    url = f"/api/jobs/v1/{body['job_id']}"
    assert body == {"success": True, "job_id": body["job_id"], "status": "pending", "status_url": url}
    assert is_id(body["job_id"])
    assert response.headers["Location"] == url
    assert int(response.headers["Retry-After"]) >= 1
    assert answer(get(funded, url))["job_id"] == body["job_id"]
    assert (balance_of(funded, 1), balance_of(funded, 2)) == (10_000, 10_000)


def test_v2_puts_the_job_on_the_queue(funded: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = accept(funded)
    assert wait_for(lambda: redis_client.lrange("rq:queue:transfers", 0, -1) == [job_id.encode()], PATIENCE_S)


@BOTH
@pytest.mark.parametrize("destination", [2, "2", "0002"])
def test_ids_are_taken_as_integers_and_as_strings_of_digits(
    funded: FlaskClient, path: str, destination: int | str
) -> None:
    body = answer(post(funded, path, {"destination_user_id": destination, "amount": 5}), 202 if "v2" in path else 200)
    job_id = body.get("job_id", body.get("transfer_id"))
    assert answer(get(funded, f"{JOBS}/{job_id}"))["destination_user_id"] == "2"


@BOTH
def test_the_largest_ids_survive_as_strings(client: FlaskClient, path: str) -> None:
    payer, payee = MAX_INT64, MAX_INT64 - 1
    fund(client, payer, payee)
    body = answer(
        post(client, path, {"destination_user_id": str(payee), "amount": 5}, user=payer), 202 if "v2" in path else 200
    )
    job = answer(get(client, f"{JOBS}/{body.get('job_id', body.get('transfer_id'))}", user=payer))
    assert (job["source_user_id"], job["destination_user_id"]) == (str(payer), str(payee))


@BOTH
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"destination_user_id": 1, "amount": 5}, "self_transfer_invalid"),
        ({"destination_user_id": "1", "amount": 5}, "self_transfer_invalid"),
        ({"destination_user_id": 3, "amount": 5}, "wallet_not_found"),  # user 3 has none
        ({"destination_user_id": 2, "amount": 10_001}, "balance_insufficient"),  # one cent more than there is
    ],
)
def test_what_can_be_seen_at_once_is_refused_at_once_without_a_job(
    funded: FlaskClient, books: Callable[[], Books], path: str, body: Json, code: str
) -> None:
    before = books()
    problem(post(funded, path, body), code)
    assert books() == before


def test_a_transfer_never_overflows_the_payee(client: FlaskClient, books: Callable[[], Books]) -> None:
    fund(client, 1, amount=1)
    fund(client, 2, amount=MAX_INT64)
    before = books()
    problem(post(client, TRANSFER, {"destination_user_id": 2, "amount": 1}), "balance_overflow")
    assert books() == before


def test_v2_may_be_rejected_later_and_then_says_why(client: FlaskClient, settle: Callable[[str], None]) -> None:
    fund(client, 1, amount=1)
    fund(client, 2, amount=MAX_INT64)
    job_id = accept(client, 1)
    settle(job_id)
    job = answer(get(client, f"{JOBS}/{job_id}"))
    assert (job["status"], job["reason"]) == ("rejected", "balance_overflow")
    assert balance_of(client, 1) == 1


def test_v2_accepts_while_redis_is_down(
    make_app: AppMaker, redis_proxy: TcpProxy, settle: Callable[[str], None]
) -> None:
    client = make_app(redis_url=redis_proxy.url).test_client()
    fund(client, 1, 2)
    redis_proxy.refuse()
    job_id = accept(client, 67)
    assert answer(get(client, f"{JOBS}/{job_id}"))["status"] == "pending"
    settle(job_id)
    assert (balance_of(client, 1), balance_of(client, 2)) == (9933, 10_067)


def test_money_moves_and_is_read_while_redis_is_down(make_app: AppMaker, redis_proxy: TcpProxy) -> None:
    redis_proxy.refuse()
    client = make_app(redis_url=redis_proxy.url).test_client()
    fund(client, 1, 2)
    answer(post(client, TRANSFER, {"destination_user_id": 2, "amount": 1}))
    answer(post(client, "/api/withdraw/v1", {"amount": 1}))
    assert balance_of(client, 1) == 9998
    assert len(answer(get(client, "/api/transactions/v1"))["transactions"]) == 3
