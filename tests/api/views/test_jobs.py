"""Following a transfer by its job id, and waiting for its end."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.api.calls import (
    ADMIN,
    DEPOSIT,
    JOBS,
    MOVES,
    TRANSFER,
    WITHDRAW,
    accept,
    answer,
    basic,
    fund,
    get,
    is_instant,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.waiters import wait_for, waiting_clients

# The longest wait there is: whoever answers much sooner has not sat it out.
LONG_S = 20
SOON_S = 10.0


@pytest.mark.parametrize(
    ("path", "kind", "source", "destination"),
    [(DEPOSIT, "deposit", None, "1"), (WITHDRAW, "withdrawal", "1", None), (TRANSFER, "transfer", "1", "2")],
)
def test_a_job_of_every_kind_is_served(
    funded: FlaskClient, path: str, kind: str, source: str | None, destination: str | None
) -> None:
    job_id = answer(post(funded, path, MOVES[path]))["transfer_id"]
    job = answer(get(funded, f"{JOBS}/{job_id}"))
    assert job == {
        "job_id": job_id,
        "status": "posted",
        "source_user_id": source,
        "destination_user_id": destination,
        "amount": 67,
        "reason": None,
        "attempts": 1,
        "last_error": None,
        "next_attempt_at": None,
        "created_at": job["created_at"],
        "completed_at": job["completed_at"],
        "kind": kind,
        "description": None,
        "reference": None,
        "metadata": None,
        "not_before": None,
        "reverses": None,
        "reversed_amount": None,
        "bulk_id": None,
    }
    assert is_instant(job["created_at"])
    assert is_instant(job["completed_at"])


def test_a_pending_job_has_no_end_yet(funded: FlaskClient) -> None:
    job_id = accept(funded)
    job = answer(get(funded, f"{JOBS}/{job_id}"))
    assert job == {
        "job_id": job_id,
        "status": "pending",
        "source_user_id": "1",
        "destination_user_id": "2",
        "amount": 67,
        "reason": None,
        "attempts": 0,
        "last_error": None,
        "next_attempt_at": None,
        "created_at": job["created_at"],
        "completed_at": None,
        "kind": "transfer",
        "description": None,
        "reference": None,
        "metadata": None,
        "not_before": None,
        "reverses": None,
        "reversed_amount": None,
        "bulk_id": None,
    }


def test_a_job_that_will_be_tried_again_says_when_and_why(funded: FlaskClient, engine: Engine) -> None:
    job_id = accept(funded)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET attempts = 1, last_error = 'slow', next_attempt_at = now() WHERE id = :id"),
            {"id": int(job_id)},
        )
    job = answer(get(funded, f"{JOBS}/{job_id}"))
    assert (job["status"], job["attempts"], job["last_error"]) == ("pending", 1, "slow")
    assert is_instant(job["next_attempt_at"])


def test_a_dead_letter_is_final_and_says_why(funded: FlaskClient, bury: Callable[[str], None]) -> None:
    job_id = accept(funded)
    bury(job_id)
    began = time.monotonic()
    job = answer(get(funded, f"{JOBS}/{job_id}?wait={LONG_S}"))
    assert time.monotonic() - began < SOON_S
    assert (job["status"], job["reason"], job["attempts"]) == ("failed", "attempts_exhausted", 4)
    assert is_instant(job["completed_at"])


@pytest.mark.parametrize("user", [1, 2, ADMIN])
def test_the_parties_and_administrators_see_a_job(funded: FlaskClient, user: int | str) -> None:
    assert answer(get(funded, f"{JOBS}/{accept(funded)}", user=user))["amount"] == 67


@pytest.mark.parametrize("wait", ["", "?wait=20"])
def test_to_others_a_job_does_not_exist(funded: FlaskClient, wait: str) -> None:
    fund(funded, 3)
    theirs = problem(get(funded, f"{JOBS}/{accept(funded)}{wait}", user=3), "job_not_found")
    nobodys = problem(get(funded, f"{JOBS}/4611686018427387904{wait}", user=3), "job_not_found")
    assert theirs["detail"] == nobodys["detail"]


def test_others_do_not_see_deposits_either(funded: FlaskClient) -> None:
    job_id = answer(post(funded, DEPOSIT, {"amount": 1}))["transfer_id"]
    problem(get(funded, f"{JOBS}/{job_id}", user=2), "job_not_found")


NO_JOB_IDS = ("0", "1", "-1", "abc", "1.0", f"{2**63}", "9" * 20, "9" * 3_000, "%D9%A1", "%00", "1%0a", "%20", "%ff")


@pytest.mark.parametrize("user", [1, ADMIN])
def test_what_is_no_job_id_is_no_job(client: FlaskClient, user: int | str) -> None:
    for job_id in NO_JOB_IDS:
        problem(get(client, f"{JOBS}/{job_id}", user=user), "job_not_found")


@pytest.mark.parametrize(
    "credentials", [basic("admin", "wrong"), basic("admin", ""), basic("root", "test-admin"), "Basic ???", "Basic"]
)
def test_a_wrong_administrator_sees_no_job(funded: FlaskClient, credentials: str) -> None:
    problem(get(funded, f"{JOBS}/{accept(funded)}", user=credentials), "unauthorized")


def test_without_an_admin_password_nobody_is_an_administrator(make_app: AppMaker) -> None:
    client = make_app(admin_password="").test_client()
    problem(get(client, f"{JOBS}/1", user=basic("admin", "")), "unauthorized")


@pytest.mark.parametrize("wait", ["0", "0.0", "0.01", "20", "20.0", "2e1", "1.5E%2B1", "5e-324"])
def test_wait_takes_seconds_from_0_to_20(funded: FlaskClient, wait: str) -> None:
    job_id = answer(post(funded, DEPOSIT, {"amount": 1}))["transfer_id"]
    assert answer(get(funded, f"{JOBS}/{job_id}?wait={wait}"))["status"] == "posted"


NO_WAITS = (
    "",
    "-1",
    "-0.1",
    "20.01",
    "21",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "true",
    "ten",
    "1_0",
    "%201",
    "0x1",
    "1,5",
    "1e",
    "2e2",
)


def test_a_wait_that_is_no_number_from_0_to_20_is_refused(funded: FlaskClient) -> None:
    job_id = accept(funded)
    for wait in (*NO_WAITS, "%D9%A1", "9" * 4_000):
        assert "wait" in problem(get(funded, f"{JOBS}/{job_id}?wait={wait}"), "bad_input")["detail"]


def test_without_a_wait_the_answer_comes_at_once(funded: FlaskClient) -> None:
    began = time.monotonic()
    assert answer(get(funded, f"{JOBS}/{accept(funded)}"))["status"] == "pending"
    assert time.monotonic() - began < SOON_S


def test_a_short_wait_ends_pending(funded: FlaskClient) -> None:
    job_id = accept(funded)
    began = time.monotonic()
    assert answer(get(funded, f"{JOBS}/{job_id}?wait=0.3"))["status"] == "pending"
    assert 0.3 <= time.monotonic() - began < SOON_S


@pytest.mark.parametrize(
    ("amount", "status", "reason"), [(67, "posted", None), (10_000, "rejected", "balance_insufficient")]
)
def test_a_wait_is_answered_as_soon_as_the_status_is_final(
    app: Flask, settle: Callable[[str], None], amount: int, status: str, reason: str | None
) -> None:
    client = app.test_client()
    fund(client, 1, 2)
    job_id = accept(client, amount)
    if status == "rejected":
        answer(post(client, WITHDRAW, {"amount": 1}))  # now there is a cent too little
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(get, app.test_client(), f"{JOBS}/{job_id}?wait={LONG_S}")
        wait_for(lambda: waiting_clients(app) == 1)
        settle(job_id)
        settled = time.monotonic()
        job = answer(waiter.result())
    assert time.monotonic() - settled < SOON_S
    assert (job["status"], job["reason"], job["attempts"]) == (status, reason, 1)
    assert waiting_clients(app) == 0


def test_whoever_finds_no_room_is_answered_at_once(make_app: AppMaker, settle: Callable[[str], None]) -> None:
    app = make_app()
    app.extensions["wallet"].waiting._most = 1
    client = app.test_client()
    fund(client, 1, 2)
    job_id = accept(client)
    with ThreadPoolExecutor() as pool:
        seated = pool.submit(get, app.test_client(), f"{JOBS}/{job_id}?wait={LONG_S}")
        wait_for(lambda: waiting_clients(app) == 1)
        began = time.monotonic()
        assert answer(get(client, f"{JOBS}/{job_id}?wait={LONG_S}"))["status"] == "pending"
        assert time.monotonic() - began < SOON_S
        assert not seated.done()
        settle(job_id)
        assert answer(seated.result())["status"] == "posted"
    # There is room again.
    later = accept(client)
    began = time.monotonic()
    assert answer(get(client, f"{JOBS}/{later}?wait=0.2"))["status"] == "pending"
    assert time.monotonic() - began >= 0.2
