"""Events: administrators follow what happens to all transfers, each once and in order; others see nothing."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from jobs.feed import Feed
from models.ledger import attempts
from models.ledger.attempts import Seen
from tests.api.calls import (
    ADMIN,
    DEPOSIT,
    JOBS,
    TRANSFER,
    WITHDRAW,
    Json,
    accept,
    answer,
    ask,
    basic,
    fund,
    get,
    is_instant,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.api.waiters import wait_for

EVENTS = "/api/events/v1"
# The longest wait there is: whoever answers much sooner has not sat it out.
LONG_S = 20
SOON_S = 10.0


@pytest.fixture
def feed(engine: Engine) -> Feed:
    """What a relay runs."""
    return Feed(engine, days=30)


def read(client: FlaskClient, query: str = "") -> Json:
    return answer(get(client, f"{EVENTS}{query}", user=ADMIN))


@pytest.mark.parametrize(
    ("credentials", "code"),
    [(1, "forbidden"), (None, "unauthorized"), (basic("admin", "wrong"), "unauthorized"), ("Bearer x", "unauthorized")],
)
def test_only_administrators_may(client: FlaskClient, credentials: int | str | None, code: str) -> None:
    response = ask(client, "GET", EVENTS, user=credentials)
    problem(response, code)
    assert ("WWW-Authenticate" in response.headers) == (code == "unauthorized")


WRONG = ("x=1", "after=-1", "after=1.0", "after=x", "after=", f"after={2**63}", "after=1&after=1", "page_size=0")


@pytest.mark.parametrize("query", [*WRONG, "page_size=101", "page_size=", "wait=21", "wait=-1", "wait=x", "cursor=1"])
def test_a_query_that_is_none_is_refused(client: FlaskClient, query: str) -> None:
    problem(ask(client, "GET", f"{EVENTS}?{query}", user=ADMIN), "bad_input")


def test_an_event_of_every_kind_of_transfer_shows_what_the_jobs_endpoint_does(funded: FlaskClient, feed: Feed) -> None:
    bodies = [(DEPOSIT, {"amount": 1}), (WITHDRAW, {"amount": 2}), (TRANSFER, {"destination_user_id": 2, "amount": 3})]
    ids = [answer(post(funded, path, body))["transfer_id"] for path, body in bodies]
    assert read(funded, "?after=2") == {"events": [], "next_after": "0", "missed": 0}  # none has a number yet
    feed.run_once()
    body = read(funded, "?after=2")
    assert [each["event_id"] for each in body["events"]] == ["3", "4", "5"]
    assert (body["next_after"], body["missed"]) == ("5", 0)
    for event, transfer_id in zip(body["events"], ids, strict=True):
        assert event["type"] == "transfer.posted"
        assert event["data"] == answer(get(funded, f"{JOBS}/{transfer_id}"))
        assert is_instant(event["created_at"])
        assert event["created_at"] == event["data"]["completed_at"]


def test_a_job_is_told_as_it_was_each_time(
    funded: FlaskClient, feed: Feed, engine: Engine, settle: Callable[[str], None]
) -> None:
    job_id = accept(funded)
    shown = []
    with engine.begin() as connection:
        attempts.spend(connection, {int(job_id): Seen(0, 1)}, {int(job_id): None}, error="slow")
    shown.append(answer(get(funded, f"{JOBS}/{job_id}")))
    answer(ask(funded, "POST", f"/api/dead-letters/v1/{job_id}/requeue", user=ADMIN))
    shown.append(answer(get(funded, f"{JOBS}/{job_id}")))
    settle(job_id)
    shown.append(answer(get(funded, f"{JOBS}/{job_id}")))
    feed.run_once()
    found = read(funded, "?after=2")["events"]
    assert [each["type"] for each in found] == ["transfer.failed", "transfer.requeued", "transfer.posted"]
    assert [each["data"] for each in found] == shown
    assert [each["status"] for each in shown] == ["failed", "pending", "posted"]


def test_a_transfer_that_is_rejected_by_its_job_is_told_with_the_reason(
    funded: FlaskClient, feed: Feed, settle: Callable[[str], None]
) -> None:
    job_id = accept(funded, 10_000)
    answer(post(funded, WITHDRAW, {"amount": 1}))
    settle(job_id)
    feed.run_once()
    (event,) = read(funded, "?after=3")["events"]
    assert (event["type"], event["data"]["reason"]) == ("transfer.rejected", "balance_insufficient")


def test_whoever_follows_sees_each_once(funded: FlaskClient, feed: Feed) -> None:
    ids, after = [], "0"
    for _ in range(5):
        answer(post(funded, DEPOSIT, {"amount": 1}))
        feed.run_once()
        body = read(funded, f"?after={after}&page_size=2")
        ids += [each["event_id"] for each in body["events"]]
        after = body["next_after"]
    while page := read(funded, f"?after={after}&page_size=2")["events"]:
        ids += [each["event_id"] for each in page]
        after = page[-1]["event_id"]
    assert ids == [str(number) for number in range(1, 8)]


def test_whoever_was_away_for_too_long_is_told_how_many_were_missed(
    funded: FlaskClient, engine: Engine, feed: Feed
) -> None:
    for _ in range(3):
        answer(post(funded, DEPOSIT, {"amount": 1}))
    feed.run_once()
    with engine.begin() as connection:
        connection.execute(text("UPDATE event_batches SET created_at = now() - interval '31 days' WHERE position < 5"))
    Feed(engine, days=30).run_once()
    body = read(funded, "?after=1")
    assert ([each["event_id"] for each in body["events"]], body["missed"], body["next_after"]) == (["5"], 3, "5")
    assert read(funded)["missed"] == 0


def test_whoever_is_ahead_goes_on_at_the_newest(funded: FlaskClient, feed: Feed) -> None:
    feed.run_once()
    began = time.monotonic()
    body = read(funded, f"?after={2**63 - 1}&wait={LONG_S}")
    assert time.monotonic() - began < SOON_S
    assert body == {"events": [], "next_after": "2", "missed": 0}


def test_a_wait_is_answered_as_soon_as_there_is_an_event(app: Flask, feed: Feed) -> None:
    client = app.test_client()
    fund(client, 1)
    feed.run_once()
    room = app.extensions["wallet"].waiting_for_events
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(read, app.test_client(), f"?after=1&wait={LONG_S}") for _ in range(3)]
        wait_for(lambda: room.waiters == 3)
        answer(post(client, DEPOSIT, {"amount": 1}))
        feed.run_once()
        told = time.monotonic()
        found = [each.result() for each in waiting]
    assert time.monotonic() - told < SOON_S
    assert [[each["event_id"] for each in body["events"]] for body in found] == [["2"]] * 3
    assert room.waiters == 0


def test_a_short_wait_ends_without_events(funded: FlaskClient, feed: Feed) -> None:
    feed.run_once()
    began = time.monotonic()
    assert read(funded, "?after=2&wait=0.3") == {"events": [], "next_after": "2", "missed": 0}
    assert time.monotonic() - began >= 0.3


def test_whoever_finds_no_room_is_answered_at_once(make_app: AppMaker) -> None:
    app = make_app()
    app.extensions["wallet"].waiting_for_events._most = 0
    began = time.monotonic()
    assert read(app.test_client(), f"?wait={LONG_S}")["events"] == []
    assert time.monotonic() - began < SOON_S


def test_nobody_waits_in_a_process_that_is_about_to_end(make_app: AppMaker) -> None:
    app = make_app()
    services = app.extensions["wallet"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(read, app.test_client(), f"?wait={LONG_S}")
        wait_for(lambda: services.waiting_for_events.waiters == 1)
        began = time.monotonic()
        services.leave(within_s=0.0, is_replaced=True)
        assert waiting.result()["events"] == []
    assert time.monotonic() - began < SOON_S
