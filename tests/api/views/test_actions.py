"""What administrators did: each act leaves one line, whatever came of it, with six fields that nobody can make up."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from jobs.rq.keys import RqKeys
from tests.api.calls import ADMIN, JOBS, TRANSFER, Json, accept, answer, ask, basic, fund, get, is_instant, problem
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy

ACTIONS = "/api/actions/v1"
DEAD = "/api/dead-letters/v1"
FIELDS = ["at", "who", "what", "on", "from", "outcome"]
Bury = Callable[[str], None]


def acts(client: FlaskClient) -> list[Json]:
    found: list[Json] = answer(get(client, f"{ACTIONS}?page_size=100", user=ADMIN))["actions"]
    return found


def told(client: FlaskClient) -> list[tuple[str, ...]]:
    """What stands in the record, oldest first, without the times."""
    return [tuple(each[name] for name in FIELDS[1:]) for each in reversed(acts(client))]


def press(client: FlaskClient, path: str, **headers: str) -> Any:
    return ask(client, "POST", f"/rq/{path}", user=ADMIN, headers=headers)


@pytest.mark.parametrize(("credentials", "code"), [(1, "forbidden"), (None, "unauthorized")])
def test_only_administrators_may_read_it(client: FlaskClient, credentials: int | None, code: str) -> None:
    problem(get(client, ACTIONS, user=credentials), code)


def test_an_act_has_six_fields(funded: FlaskClient, bury: Bury) -> None:
    bury(job_id := accept(funded))
    ask(funded, "POST", f"{DEAD}/{job_id}/requeue", user=ADMIN)
    body = answer(get(funded, ACTIONS, user=ADMIN))
    (act,) = body.pop("actions")
    assert body == {"page_size": 30, "has_more": False, "next_cursor": None}
    assert list(act) == FIELDS
    assert is_instant(act.pop("at"))
    assert act == {
        "who": "admin", "what": "dead_letter.requeue", "on": job_id, "from": "127.0.0.1", "outcome": "done",
    }  # fmt: skip


def test_each_requeue_leaves_a_line_with_what_came_of_it(funded: FlaskClient, bury: Bury) -> None:
    bury(job_id := accept(funded))
    for path in (f"{job_id}/requeue", f"{job_id}/requeue", "1/requeue", "requeue", "x/requeue?y=1"):
        ask(funded, "POST", f"{DEAD}/{path}", user=ADMIN)
    bury(job_id)
    ask(funded, "POST", f"{DEAD}/requeue", user=ADMIN)
    one, everything = ("admin", "dead_letter.requeue"), ("admin", "dead_letter.requeue_all")
    assert told(funded) == [
        (*one, job_id, "127.0.0.1", "done"),
        (*one, job_id, "127.0.0.1", "unchanged"),
        (*one, "1", "127.0.0.1", "job_not_found"),
        (*everything, "all", "127.0.0.1", "unchanged"),
        (*one, "x", "127.0.0.1", "bad_input"),
        (*everything, "all", "127.0.0.1", "done"),
    ]


def test_each_button_of_the_dashboard_leaves_a_line(client: FlaskClient, redis_client: redis.Redis) -> None:
    RqKeys(redis_client).bury(7, generation=1, error="told to")
    for path in (
        "job/7/requeue", "job/7/requeue", "requeue/transfers", "queue/transfers/compact",
        "queue/transfers/queued/empty", "job/7/delete", "queue/none/compact", "queue/transfers/none/empty",
    ):  # fmt: skip
        press(client, path)
    assert [(what, on, outcome) for _, what, on, _, outcome in told(client)] == [
        ("dashboard.requeue_job_view", "7", "done"),
        ("dashboard.requeue_job_view", "7", "job_not_found"),
        ("dashboard.requeue_all", "transfers", "done"),
        ("dashboard.compact_queue", "transfers", "done"),
        ("dashboard.empty_queue", "transfers/queued", "done"),
        ("dashboard.delete_job_view", "7", "job_not_found"),
        ("dashboard.compact_queue", "none", "not_found"),
        ("dashboard.empty_queue", "transfers/none", "not_found"),
    ]


def test_what_only_looks_leaves_none(funded: FlaskClient) -> None:
    for path in (DEAD, ACTIONS, "/api/audit/v1", f"{JOBS}/{accept(funded)}", "/rq/", "/rq/0/data/queues.json"):
        assert get(funded, path, user=ADMIN).status_code == 200
    for path in ("/rq/requeue/transfers", f"{DEAD}/requeue", "/rq/none"):
        assert get(funded, path, user=ADMIN).status_code in {404, 405}
    assert told(funded) == []


@pytest.mark.parametrize("credentials", [1, None, basic("admin", "wrong"), "Bearer x"])
def test_who_is_no_administrator_leaves_none(client: FlaskClient, credentials: int | str | None) -> None:
    for path in (f"{DEAD}/requeue", f"{DEAD}/1/requeue", "/rq/requeue/transfers", "/rq/job/1/delete"):
        assert ask(client, "POST", path, user=credentials).status_code in {401, 403}
    assert told(client) == []


def test_another_sites_page_that_uses_an_administrators_password_leaves_one(client: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    problem(ask(client, "POST", f"{DEAD}/requeue", user=ADMIN, headers=headers), "forbidden")
    problem(press(client, "requeue/transfers", **headers), "forbidden")
    assert [(what, outcome) for _, what, _, _, outcome in told(client)] == [
        ("dead_letter.requeue_all", "forbidden"),
        ("dashboard.requeue_all", "forbidden"),
    ]


def test_what_is_throttled_leaves_none(make_app: AppMaker) -> None:
    client = make_app(rate_limit="1/hour;burst=1").test_client()
    answer(ask(client, "POST", f"{DEAD}/requeue", user=ADMIN))
    for _ in range(2):
        problem(ask(client, "POST", f"{DEAD}/requeue", user=ADMIN), "rate_limited")
    assert len(told(make_app(rate_limit="off").test_client())) == 1


@pytest.mark.parametrize(
    ("trusted", "origin"),
    [({}, "127.0.0.1"), ({"trusted_proxies": "127.0.0.1/32"}, "203.0.113.7")],
    ids=["nobody", "the proxy"],
)
def test_an_address_is_what_a_trusted_proxy_says_and_nobody_else(
    make_app: AppMaker, trusted: dict[str, str], origin: str
) -> None:
    client = make_app(**trusted).test_client()
    headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
    ask(client, "POST", f"{DEAD}/requeue", user=ADMIN, headers=headers)
    assert [each["from"] for each in acts(client)] == [origin]


def test_pages_have_no_gaps(funded: FlaskClient) -> None:
    for number in range(1, 6):
        ask(funded, "POST", f"{DEAD}/{number}/requeue", user=ADMIN)
    found, path = [], f"{ACTIONS}?page_size=2"
    while path:
        page = answer(get(funded, path, user=ADMIN))
        found += [each["on"] for each in page["actions"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        path = f"{ACTIONS}?page_size=2&cursor={page['next_cursor']}" if page["has_more"] else ""
    assert found == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize("query", ["page_size=0", "page_size=101", "cursor=0", "cursor=x", f"cursor={2**63}", "page=1"])
def test_bad_pages_are_refused(client: FlaskClient, query: str) -> None:
    problem(get(client, f"{ACTIONS}?{query}", user=ADMIN), "bad_input")


def test_what_cannot_be_recorded_is_not_done(app: Flask, engine: Engine, bury: Bury, redis_client: redis.Redis) -> None:
    client = app.test_client()
    fund(client, 1, 2)
    bury(job_id := accept(client))
    RqKeys(redis_client).bury(7, generation=1, error="told to")
    with engine.begin() as connection:
        connection.execute(
            text("""
            CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
            CREATE TRIGGER breaks BEFORE INSERT ON actions FOR EACH ROW EXECUTE FUNCTION break_it();
            """)
        )
    try:
        for path in (f"{DEAD}/{job_id}/requeue", f"{DEAD}/requeue", "/rq/job/7/requeue", "/rq/requeue/transfers"):
            problem(ask(client, "POST", path, user=ADMIN), "unavailable")
        by_command = app.test_cli_runner().invoke(args=["dead-letters", "requeue", job_id])
        assert by_command.exit_code == 1
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER breaks ON actions; DROP FUNCTION break_it"))
    assert answer(get(client, f"{JOBS}/{job_id}"))["status"] == "failed"
    assert redis_client.zcard("rq:failed:transfers") == 1
    assert told(client) == []


def test_with_postgresql_gone_it_is_unavailable(cut_client: FlaskClient, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    problem(get(cut_client, ACTIONS, user=ADMIN), "unavailable")


def test_an_act_is_told_in_the_log(client: FlaskClient) -> None:
    with capture_logs() as logged:
        ask(client, "POST", f"{DEAD}/1/requeue", user=ADMIN)
    (line,) = [each for each in logged if each["event"] == "action"]
    assert {name: line[name] for name in FIELDS[1:]} == {
        "who": "admin", "what": "dead_letter.requeue", "on": "1", "from": "127.0.0.1", "outcome": "job_not_found",
    }  # fmt: skip


def test_of_what_users_may_do_as_well_only_an_administrators_acts_are_there(funded: FlaskClient) -> None:
    first, second = accept(funded), accept(funded)
    paid = answer(ask(funded, "POST", TRANSFER, body={"destination_user_id": 2, "amount": 5}))["transfer_id"]
    answer(ask(funded, "POST", f"{JOBS}/{first}/cancel"))
    answer(ask(funded, "POST", f"{JOBS}/{second}/cancel", user=ADMIN))
    answer(ask(funded, "POST", f"/api/transfers/v1/{paid}/reverse", user=2, body={"amount": 2}))
    answer(ask(funded, "POST", f"/api/transfers/v1/{paid}/reverse", user=ADMIN))
    problem(ask(funded, "POST", f"{JOBS}/1/cancel", user=ADMIN), "job_not_found")
    problem(ask(funded, "POST", f"{JOBS}/1/cancel"), "job_not_found")
    assert told(funded) == [
        ("admin", "job.cancel", second, "127.0.0.1", "done"),
        ("admin", "transfer.reverse", paid, "127.0.0.1", "done"),
        ("admin", "job.cancel", "1", "127.0.0.1", "job_not_found"),
    ]
