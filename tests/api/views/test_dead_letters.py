"""Dead letters: administrators list them and put them back; to all others they are closed."""

from collections.abc import Callable

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from tests.api.calls import (
    ADMIN,
    DEPOSIT,
    JOBS,
    Json,
    accept,
    answer,
    ask,
    balance_of,
    basic,
    fund,
    get,
    is_instant,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.conftest import Books
from tests.proxy import TcpProxy

DEAD = "/api/dead-letters/v1"
CALLS = pytest.mark.parametrize(
    ("method", "path"), [("GET", DEAD), ("POST", f"{DEAD}/1/requeue"), ("POST", f"{DEAD}/requeue")]
)
Bury = Callable[[str], None]


def requeue(client: FlaskClient, job_id: str = "") -> Json:
    """Put one back, or all."""
    path = f"{DEAD}/{job_id}/requeue" if job_id else f"{DEAD}/requeue"
    return answer(ask(client, "POST", path, user=ADMIN))


@CALLS
@pytest.mark.parametrize(
    ("credentials", "code"),
    [(1, "forbidden"), (None, "unauthorized"), (basic("admin", "wrong"), "unauthorized"), ("Bearer x", "unauthorized")],
)
def test_only_administrators_may(
    client: FlaskClient, method: str, path: str, credentials: int | str | None, code: str
) -> None:
    response = ask(client, method, path, user=credentials)
    problem(response, code)
    assert ("WWW-Authenticate" in response.headers) == (code == "unauthorized")


@CALLS
def test_an_unknown_query_parameter_is_refused(client: FlaskClient, method: str, path: str) -> None:
    problem(ask(client, method, f"{path}?x=1", user=ADMIN), "bad_input")


def test_failed_jobs_are_listed_newest_first_with_reason_and_attempts(funded: FlaskClient, bury: Bury) -> None:
    accept(funded)  # pending: not listed
    dead = [accept(funded, amount) for amount in (1, 2, 3)]
    for job_id in dead:
        bury(job_id)
    body = answer(get(funded, DEAD, user=ADMIN))
    letters = body.pop("dead_letters")
    assert body == {"page_size": 30, "has_more": False, "next_cursor": None}
    assert [each["job_id"] for each in letters] == dead[::-1]
    assert is_instant(letters[0]["completed_at"])
    assert letters[0] == answer(get(funded, f"{JOBS}/{dead[2]}"))
    assert (letters[0]["status"], letters[0]["reason"], letters[0]["attempts"]) == ("failed", "attempts_exhausted", 4)


def test_pages_of_dead_letters_have_no_gaps(funded: FlaskClient, bury: Bury) -> None:
    dead = [accept(funded, 1) for _ in range(3)]
    for job_id in dead:
        bury(job_id)
    first = answer(get(funded, f"{DEAD}?page_size=2", user=ADMIN))
    second = answer(get(funded, f"{DEAD}?page_size=2&cursor={first['next_cursor']}", user=ADMIN))
    assert [len(first["dead_letters"]), first["has_more"], second["has_more"]] == [2, True, False]
    assert [each["job_id"] for each in first["dead_letters"] + second["dead_letters"]] == dead[::-1]


def test_bad_pages_of_dead_letters_are_refused(client: FlaskClient) -> None:
    for query in ("page_size=0", "page_size=101", "page_size=1.0", "cursor=0", "cursor=x", f"cursor={2**63}", "page=1"):
        problem(get(client, f"{DEAD}?{query}", user=ADMIN), "bad_input")


def test_a_requeued_dead_letter_is_pending_again_and_can_be_posted(
    funded: FlaskClient, bury: Bury, settle: Callable[[str], None], redis_client: redis.Redis
) -> None:
    job_id = accept(funded)
    bury(job_id)
    redis_client.flushdb()
    body = requeue(funded, job_id)
    assert body["requeued"] is True
    assert (body["job"]["job_id"], body["job"]["status"], body["job"]["reason"]) == (job_id, "pending", None)
    assert answer(get(funded, f"{JOBS}/{job_id}"))["completed_at"] is None
    assert redis_client.lrange("rq:queue:transfers", 0, -1) == [job_id.encode()]
    settle(job_id)
    assert balance_of(funded, 1) == 9_933


@pytest.mark.parametrize("final", [True, False])
def test_what_is_not_dead_is_left_alone(
    funded: FlaskClient, settle: Callable[[str], None], books: Callable[[], Books], final: bool
) -> None:
    job_id = accept(funded)
    if final:
        settle(job_id)
    before = books()
    body = requeue(funded, job_id)
    assert (body["requeued"], body["job"]["status"]) == (False, "posted" if final else "pending")
    assert books() == before


def test_all_dead_letters_can_be_put_back_at_once(funded: FlaskClient, bury: Bury) -> None:
    dead = [accept(funded, 1) for _ in range(3)]
    for job_id in dead:
        bury(job_id)
    assert requeue(funded) == {"requeued": 3}
    assert requeue(funded) == {"requeued": 0}
    assert {answer(get(funded, f"{JOBS}/{job_id}"))["status"] for job_id in dead} == {"pending"}


def test_an_unknown_job_cannot_be_requeued(client: FlaskClient) -> None:
    for job_id in ("0", "1", "abc", "9223372036854775808", "%00"):
        problem(ask(client, "POST", f"{DEAD}/{job_id}/requeue", user=ADMIN), "job_not_found")


def test_dead_letters_are_requeued_while_redis_is_down(make_app: AppMaker, redis_proxy: TcpProxy, bury: Bury) -> None:
    client = make_app(redis_url=redis_proxy.url).test_client()
    fund(client, 1, 2)
    redis_proxy.refuse()
    job_id = accept(client)
    bury(job_id)
    assert requeue(client, job_id)["job"]["status"] == "pending"


@CALLS
def test_with_postgresql_gone_they_are_unavailable(
    cut_client: FlaskClient, postgres_proxy: TcpProxy, method: str, path: str
) -> None:
    postgres_proxy.refuse()
    problem(ask(cut_client, method, path, user=ADMIN), "unavailable")


def test_a_requeue_moves_nothing_by_itself(funded: FlaskClient, bury: Bury) -> None:
    bury(accept(funded))
    requeue(funded)
    assert (balance_of(funded, 1), balance_of(funded, 2)) == (10_000, 10_000)
    assert answer(post(funded, DEPOSIT, {"amount": 1}))["balance"] == 10_001


def test_the_command_line_lists_and_requeues(app: Flask, bury: Bury) -> None:
    client = app.test_client()
    fund(client, 1, 2)
    dead = [accept(client, amount) for amount in (1, 2)]
    for job_id in dead:
        bury(job_id)
    run = app.test_cli_runner().invoke
    listed = run(args=["dead-letters", "list"])
    assert listed.output.splitlines() == [
        f"{dead[1]}\t1\t2\t2\t4\tattempts_exhausted\tslow",
        f"{dead[0]}\t1\t2\t1\t4\tattempts_exhausted\tslow",
    ]
    assert run(args=["dead-letters", "requeue", dead[0]]).output.endswith(f"{dead[0]}\trequeued\n")
    assert run(args=["dead-letters", "requeue", dead[0]]).output == f"{dead[0]}\tleft alone, it is pending\n"
    assert run(args=["dead-letters", "requeue", "--all"]).output.endswith("requeued 1\n")
    assert run(args=["dead-letters", "requeue"]).exit_code == 2
    assert run(args=["dead-letters", "requeue", "1"]).exit_code == 1
