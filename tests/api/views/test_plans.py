"""Later, and never mind: a transfer is planned for an instant, and called off by whoever may, until it is tried."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq.registry import ScheduledJobRegistry
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.contract.transfers import MAX_DAYS_AHEAD
from jobs.event_json import rfc3339
from jobs.rq.keys import FINISHED
from models.ledger import cancellation, events
from observe import metrics
from ops.local.processes import wait_for
from tests.api.access.test_cross_site import OURS, THEIRS
from tests.api.calls import (
    ADMIN,
    DEPOSIT,
    JOBS,
    MOVES,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    Json,
    accept,
    answer,
    ask,
    balance_of,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.books import check_books
from tests.conftest import Books
from tests.jobs.backlog import members, queued, stock_queue
from tests.models.ledger.ordering import come, uncommitted
from tests.patience import PATIENCE_S

BODY = MOVES[TRANSFER_LATER]


def ahead(**span: float) -> datetime:
    return datetime.now(UTC) + timedelta(**span)


def plan(client: FlaskClient, instant: datetime | str, *, key: str | None = None, **body: Any) -> str:
    spelled = instant if isinstance(instant, str) else rfc3339(instant)
    placed = post(client, TRANSFER_LATER, BODY | {"not_before": spelled} | body, key=key)
    return str(answer(placed, 202)["job_id"])


def cancel(client: FlaskClient, job_id: str, *, user: int | str | None = 1, **asked: Any) -> TestResponse:
    return ask(client, "POST", f"{JOBS}/{job_id}/cancel", user=user, **asked)


def look(client: FlaskClient, job_id: str) -> Json:
    return answer(get(client, f"{JOBS}/{job_id}"))


def told(client: FlaskClient, engine: Engine, job_id: str) -> list[Json]:
    events.number(engine)
    found: list[Json] = answer(get(client, "/api/events/v1?page_size=100", user=ADMIN))["events"]
    return [each for each in found if each["data"]["job_id"] == job_id]


# --- planned


def test_it_is_accepted_now_and_shown_for_then(funded: FlaskClient, redis_client: redis.Redis) -> None:
    instant = ahead(days=30)
    job_id = plan(funded, instant, description="rent")
    job = look(funded, job_id)
    spelled = rfc3339(instant)
    assert (job["status"], job["not_before"], job["next_attempt_at"]) == ("pending", spelled, spelled)
    assert (job["attempts"], job["completed_at"], job["description"]) == (0, None, "rent")
    assert balance_of(funded, 1) == 10_000
    registry = ScheduledJobRegistry(queue=stock_queue(redis_client))  # type: ignore[no-untyped-call]
    assert wait_for(lambda: registry.get_job_ids(cleanup=False) == [job_id], PATIENCE_S)
    assert registry.get_scheduled_time(job_id) == instant
    assert queued(redis_client) == []


def test_the_dashboard_shows_it_as_scheduled(funded: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = plan(funded, ahead(days=1))
    assert wait_for(lambda: bool(members(redis_client, "rq:scheduled:transfers")), PATIENCE_S)
    page = get(funded, "/rq/0/data/jobs/transfers/scheduled/10/asc/1.json", user=ADMIN)
    assert [each["id"] for each in page.get_json()["jobs"]] == [job_id]


def test_when_its_instant_comes_it_is_posted_on_what_there_is_then(
    funded: FlaskClient, engine: Engine, settle: Callable[[str], None]
) -> None:
    paid, refused = plan(funded, ahead(hours=1), amount=15_000), plan(funded, ahead(hours=1), amount=90_000)
    settle(paid)
    assert look(funded, paid)["status"] == "pending"
    fund(funded, 1)
    come(engine, int(paid), int(refused))
    for each in (paid, refused):
        settle(each)
    assert (look(funded, paid)["status"], look(funded, paid)["next_attempt_at"]) == ("posted", None)
    assert look(funded, paid)["completed_at"] >= look(funded, paid)["not_before"]
    assert look(funded, refused)["reason"] == "balance_insufficient"
    assert balance_of(funded, 1) == 5_000
    check_books(engine)


@pytest.mark.parametrize("offset", [UTC, timezone(timedelta(hours=-5, minutes=-30)), timezone(timedelta(hours=14))])
def test_an_instant_may_be_spelled_with_any_offset(funded: FlaskClient, offset: timezone) -> None:
    instant = ahead(days=2).astimezone(offset)
    assert look(funded, plan(funded, instant.isoformat()))["not_before"] == rfc3339(instant)


@pytest.mark.parametrize("instant", ["1970-01-01T00:00:00Z", "2026-01-01t00:00:00.123456789-03:00"])
def test_what_has_passed_is_at_once(funded: FlaskClient, redis_client: redis.Redis, instant: str) -> None:
    job_id = plan(funded, instant)
    assert look(funded, job_id)["next_attempt_at"] is None
    assert wait_for(lambda: queued(redis_client) == [job_id], PATIENCE_S)


@pytest.mark.parametrize(
    "wrong",
    ["", "tomorrow", "2027-01-01", "2027-01-01T00:00:00", "2027-02-30T00:00:00Z", "2027-01-01T00:00:61Z", 1798761600,
     True, ["2027-01-01T00:00:00Z"], {}, "9999-12-31T23:59:59Z", "2027-01-01 00:00:00Z"],
)  # fmt: skip
def test_what_is_no_instant_or_too_far_ahead_is_refused(
    funded: FlaskClient, books: Callable[[], Books], wrong: object
) -> None:
    before = books()
    refused = problem(post(funded, TRANSFER_LATER, BODY | {"not_before": wrong}), "bad_input")
    assert refused["detail"].startswith("body: not_before: ")
    assert books() == before


def test_the_furthest_is_366_days_ahead(funded: FlaskClient) -> None:
    furthest = timedelta(days=MAX_DAYS_AHEAD)
    plan(funded, datetime.now(UTC) + furthest - timedelta(minutes=1))
    too_far = rfc3339(datetime.now(UTC) + furthest + timedelta(minutes=1))
    detail = problem(post(funded, TRANSFER_LATER, BODY | {"not_before": too_far}), "bad_input")["detail"]
    assert detail == "body: not_before: Input should be at most 366 days ahead"


@pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW, TRANSFER])
def test_only_v2_can_be_planned(funded: FlaskClient, path: str) -> None:
    body = MOVES[path] | {"not_before": rfc3339(ahead(days=1))}
    assert "not_before" in problem(post(funded, path, body), "bad_input")["detail"]


def test_null_plans_nothing(funded: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = str(answer(post(funded, TRANSFER_LATER, BODY | {"not_before": None}), 202)["job_id"])
    assert look(funded, job_id)["not_before"] is None
    assert wait_for(lambda: queued(redis_client) == [job_id], PATIENCE_S)


def test_parties_are_looked_at_now(funded: FlaskClient) -> None:
    then = {"not_before": rfc3339(ahead(days=1))}
    problem(post(funded, TRANSFER_LATER, BODY | then | {"destination_user_id": 9}), "wallet_not_found")
    problem(post(funded, TRANSFER_LATER, BODY | then | {"destination_user_id": 1}), "self_transfer_invalid")
    problem(post(funded, TRANSFER_LATER, BODY | then, user=9), "wallet_not_found")


def test_a_key_gives_the_first_answer_again_and_is_bound_to_the_instant(funded: FlaskClient) -> None:
    instant = ahead(days=1)
    job_id = plan(funded, instant, key="k")
    again = post(funded, TRANSFER_LATER, BODY | {"not_before": instant.isoformat()}, key="k")
    assert (answer(again, 202)["job_id"], again.headers["Idempotency-Replayed"]) == (job_id, "true")
    for other in ({}, {"not_before": rfc3339(instant + timedelta(seconds=1))}):
        problem(post(funded, TRANSFER_LATER, BODY | other, key="k"), "idempotency_key_reused")


# --- called off


@pytest.mark.parametrize("user", [1, ADMIN])
@pytest.mark.parametrize("is_planned", [False, True])
def test_the_payer_and_administrators_call_it_off(
    funded: FlaskClient, engine: Engine, settle: Callable[[str], None], *, is_planned: bool, user: int | str
) -> None:
    counted = metrics.transfers["transfer", "canceled"]
    before, history = counted._value.get(), balance_of(funded, 1)
    job_id = plan(funded, ahead(days=1)) if is_planned else accept(funded)
    canceled = answer(cancel(funded, job_id, user=user))
    assert (canceled["job_id"], canceled["status"]) == (job_id, "canceled")
    assert (canceled["reason"], canceled["next_attempt_at"]) == (None, None)
    assert canceled["completed_at"] is not None
    assert look(funded, job_id) == canceled
    # Also if it was called off before, by whomever.
    for again in (user, 1, ADMIN):
        assert answer(cancel(funded, job_id, user=again)) == canceled
    settle(job_id)
    assert look(funded, job_id) == canceled
    assert balance_of(funded, 1) == history
    (event,) = told(funded, engine, job_id)
    assert (event["type"], event["data"]) == ("transfer.canceled", canceled)
    assert counted._value.get() == before + 1
    check_books(engine)


def test_it_is_taken_off_the_scheduled_registry(funded: FlaskClient, redis_client: redis.Redis) -> None:
    job_id = plan(funded, ahead(days=1))
    assert wait_for(lambda: bool(members(redis_client, "rq:scheduled:transfers")), PATIENCE_S)
    answer(cancel(funded, job_id))
    assert wait_for(lambda: not members(redis_client, "rq:scheduled:transfers"), PATIENCE_S)
    assert members(redis_client, FINISHED).keys() == {job_id}


def test_the_payee_may_see_it_and_not_call_it_off(funded: FlaskClient) -> None:
    job_id = plan(funded, ahead(days=1))
    problem(cancel(funded, job_id, user=2), "forbidden")
    assert look(funded, job_id)["status"] == "pending"
    answer(cancel(funded, job_id))
    problem(cancel(funded, job_id, user=2), "forbidden")


def test_to_others_it_does_not_exist(funded: FlaskClient) -> None:
    fund(funded, 3)
    theirs = problem(cancel(funded, plan(funded, ahead(days=1)), user=3), "job_not_found")
    for nobodys in ("4611686018427387904", "0", "x", "9" * 20):
        assert problem(cancel(funded, nobodys, user=3), "job_not_found")["detail"] == theirs["detail"]
    problem(cancel(funded, "4611686018427387904", user=ADMIN), "job_not_found")
    problem(cancel(funded, "1", user=None), "unauthorized")


def test_what_has_ended_otherwise_is_not_cancelable_and_says_how_it_ended(
    funded: FlaskClient, settle: Callable[[str], None], bury: Callable[[str], None]
) -> None:
    posted, rejected, dead = accept(funded), accept(funded, 9_990), accept(funded)
    for each in (posted, rejected):
        settle(each)
    bury(dead)
    deposit = answer(post(funded, DEPOSIT, {"amount": 1}))["transfer_id"]
    for job_id, status in ((posted, "posted"), (rejected, "rejected"), (dead, "failed"), (deposit, "posted")):
        before = look(funded, job_id)
        for user in (1, ADMIN):
            detail = problem(cancel(funded, job_id, user=user), "not_cancelable")["detail"]
            assert f"it is {status}" in detail
        assert look(funded, job_id) == before


def test_what_is_being_tried_is_not_cancelable(funded: FlaskClient, engine: Engine) -> None:
    job_id = accept(funded)
    with uncommitted(engine, [int(job_id)]):
        assert "being tried" in problem(cancel(funded, job_id), "not_cancelable")["detail"]
    assert look(funded, job_id)["status"] == "posted"


def test_a_dead_letter_that_was_brought_back_can_be_called_off_and_that_cannot_be_brought_back(
    funded: FlaskClient, engine: Engine, bury: Callable[[str], None]
) -> None:
    job_id = accept(funded)
    bury(job_id)
    requeue = f"/api/dead-letters/v1/{job_id}/requeue"
    assert answer(ask(funded, "POST", requeue, user=ADMIN))["requeued"]
    assert answer(cancel(funded, job_id))["status"] == "canceled"
    again = answer(ask(funded, "POST", requeue, user=ADMIN))
    assert (again["requeued"], again["job"]["status"]) == (False, "canceled")
    assert [each["type"] for each in told(funded, engine, job_id)] == ["transfer.requeued", "transfer.canceled"]


def test_a_key_gives_the_first_answer_again_after_it_was_called_off(funded: FlaskClient) -> None:
    instant = ahead(days=1)
    job_id = plan(funded, instant, key="k")
    answer(cancel(funded, job_id))
    assert plan(funded, instant, key="k") == job_id
    assert look(funded, job_id)["status"] == "canceled"


def test_whoever_waits_for_it_is_told(funded: FlaskClient, app: Flask) -> None:
    job_id = plan(funded, ahead(days=1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: answer(get(app.test_client(), f"{JOBS}/{job_id}?wait=20")))
        room = app.extensions["wallet"].waiting
        assert wait_for(lambda: room.waiters == 1, PATIENCE_S)
        canceled = answer(cancel(funded, job_id))
        assert waiting.result(PATIENCE_S) == canceled


def test_raced_with_a_worker_one_wins_and_both_are_told_the_same(
    funded: FlaskClient, app: Flask, settle: Callable[[str], None], engine: Engine
) -> None:
    ended: list[str] = []
    for _ in range(20):
        job_id, starts = accept(funded, 1), threading.Barrier(2)
        with ThreadPoolExecutor(1) as pool:
            posting = pool.submit(settle_after, starts, settle, job_id)
            starts.wait(PATIENCE_S)
            response = cancel(app.test_client(), job_id)
            posting.result(PATIENCE_S)
        status = look(funded, job_id)["status"]
        if response.status_code == 200:
            assert (answer(response)["status"], status) == ("canceled", "canceled")
        else:
            problem(response, "not_cancelable")
            assert status == "posted"
        ended.append(status)
    assert balance_of(funded, 1) == 10_000 - ended.count("posted")
    check_books(engine)


def settle_after(starts: threading.Barrier, settle: Callable[[str], None], job_id: str) -> None:
    starts.wait(PATIENCE_S)
    settle(job_id)


@pytest.mark.parametrize("headers", THEIRS, ids=repr)
def test_no_other_sites_page_calls_off_in_an_administrators_name(funded: FlaskClient, headers: dict[str, str]) -> None:
    job_id = accept(funded)
    problem(cancel(funded, job_id, user=ADMIN, headers=headers), "forbidden")
    assert look(funded, job_id)["status"] == "pending"
    answer(cancel(funded, job_id, headers=headers))  # no browser adds a user's id by itself


@pytest.mark.parametrize("headers", OURS, ids=repr)
def test_our_own_pages_do(funded: FlaskClient, headers: dict[str, str]) -> None:
    answer(cancel(funded, accept(funded), user=ADMIN, headers=headers))


def test_it_takes_a_token_and_no_parameters(make_app: AppMaker) -> None:
    client = make_app(rate_limit="1/hour;burst=5").test_client()
    fund(client, 1, 2)
    job_id = accept(client)
    problem(ask(client, "POST", f"{JOBS}/{job_id}/cancel?x=1"), "bad_input")
    assert answer(cancel(client, job_id))["status"] == "canceled"
    assert "RateLimit" in cancel(client, job_id).headers
    problem(cancel(client, job_id), "rate_limited")


def test_with_redis_away_it_is_called_off_all_the_same(make_app: AppMaker, funded: FlaskClient) -> None:
    job_id = plan(funded, ahead(days=1))
    client = make_app(redis_url="redis://127.0.0.1:1/0").test_client()
    assert answer(cancel(client, job_id))["status"] == "canceled"
    assert not cancellation.cancel(client.application.extensions["wallet"].engine, int(job_id))
