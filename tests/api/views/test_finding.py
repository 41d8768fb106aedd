"""Transfers as a resource: users find their own, administrators everyone's, and what nothing serves is refused."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient

from models.ledger import listing
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
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy

FIND = "/api/transfers/v1"
EVERYTHING = {"status", "kind", "direction", "counterparty_user_id", "reference", "idempotency_key", "bulk_id",
              "amount_min", "amount_max", "created_from", "created_to"}  # fmt: skip


def found(client: FlaskClient, *, user: int | str = 1, **query: Any) -> Json:
    return answer(get(client, f"{FIND}?{urlencode(query)}", user=user))


def ids(client: FlaskClient, *, user: int | str = 1, **query: Any) -> list[str]:
    return [each["job_id"] for each in found(client, user=user, **query)["transfers"]]


@pytest.fixture
def moved(funded: FlaskClient, bury: Callable[[str], None]) -> dict[str, str]:
    """Ids of transfers by what they are, oldest first; user 3 has nothing to do with users 1 and 2."""
    fund(funded, 3)
    opened = {f"opened {user}": ids(funded, user=user)[-1] for user in (1, 2, 3)}
    to_two = {"destination_user_id": 2, "amount": 30, "reference": "rent", "description": "November"}
    made = {
        "paid": answer(post(funded, TRANSFER, to_two, key="k"))["transfer_id"],
        "received": answer(post(funded, TRANSFER, {"destination_user_id": 1, "amount": 5}, user=2))["transfer_id"],
        "withdrawn": answer(post(funded, WITHDRAW, {"amount": 7, "reference": "rent"}))["transfer_id"],
        "dead": accept(funded, 50),
        "others": accept(funded, 60, user=2, to=3),
    }
    bury(made["dead"])
    return opened | made


def test_users_find_their_own_newest_first_as_their_jobs_are(funded: FlaskClient, moved: dict[str, str]) -> None:
    page = found(funded)
    expected = [moved[name] for name in ("dead", "withdrawn", "received", "paid", "opened 1")]
    assert [each["job_id"] for each in page["transfers"]] == expected
    assert (page["page_size"], page["has_more"], page["next_cursor"]) == (30, False, None)
    assert page["transfers"] == [answer(get(funded, f"{JOBS}/{each}")) for each in expected]
    assert page["transfers"] == [answer(get(funded, f"{FIND}/{each}")) for each in expected]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"status": "failed"}, ["dead"]),
        ({"status": "canceled"}, []),
        ({"kind": "deposit"}, ["opened 1"]),
        ({"kind": "withdrawal"}, ["withdrawn"]),
        ({"direction": "in"}, ["received", "opened 1"]),
        ({"direction": "out"}, ["dead", "withdrawn", "paid"]),
        ({"counterparty_user_id": 2}, ["dead", "received", "paid"]),
        ({"counterparty_user_id": "02", "direction": "in"}, ["received"]),
        ({"counterparty_user_id": 1}, []),
        ({"reference": "rent"}, ["withdrawn", "paid"]),
        ({"reference": "rent", "kind": "transfer"}, ["paid"]),
        ({"idempotency_key": "k"}, ["paid"]),
        ({"idempotency_key": "other"}, []),
        ({"bulk_id": 1}, []),
        ({"amount_min": 7, "amount_max": 30}, ["withdrawn", "paid"]),
        ({"amount_min": 0, "amount_max": 5}, ["received"]),
    ],
)
def test_each_filter_holds_of_what_is_found(
    funded: FlaskClient, moved: dict[str, str], query: dict[str, Any], names: list[str]
) -> None:
    assert ids(funded, **query) == [moved[name] for name in names]


def test_bounds_of_time_belong_to_what_is_found(funded: FlaskClient, moved: dict[str, str]) -> None:
    instant = answer(get(funded, f"{JOBS}/{moved['received']}"))["created_at"]
    assert ids(funded, created_from=instant, created_to=instant) == [moved["received"]]
    elsewhere = instant.replace("Z", "+00:00")
    assert ids(funded, created_to=elsewhere) == [moved["received"], moved["paid"], moved["opened 1"]]
    assert ids(funded, user=ADMIN, created_from=instant, created_to=instant) == [moved["received"]]


def test_administrators_find_everyones_and_some_users(funded: FlaskClient, moved: dict[str, str]) -> None:
    everyone = [*reversed(moved.values())]
    assert sorted(ids(funded, user=ADMIN)) == sorted(everyone)
    assert ids(funded, user=ADMIN, user_id=3) == [moved["others"], moved["opened 3"]]
    assert ids(funded, user=ADMIN, user_id=2, counterparty_user_id=3) == [moved["others"]]
    assert ids(funded, user=ADMIN, user_id=1, idempotency_key="k") == [moved["paid"]]
    assert ids(funded, user=ADMIN, user_id=2, idempotency_key="k") == []  # it is the payer's
    assert ids(funded, user=ADMIN, idempotency_key="k") == [moved["paid"]]
    assert ids(funded, user=ADMIN, reference="rent") == [moved["withdrawn"], moved["paid"]]
    assert ids(funded, user=ADMIN, status="failed") == [moved["dead"]]
    assert ids(funded, user=ADMIN, status="pending") == [moved["others"]]
    assert ids(funded, user=ADMIN, kind="withdrawal", created_from="2026-01-01T00:00:00Z",
               created_to="2026-01-31T00:00:00Z") == []  # fmt: skip


def test_what_many_have_ordered_with_a_key_is_found_a_page_at_a_time_by_whose_it_is(funded: FlaskClient) -> None:
    made = [answer(post(funded, DEPOSIT, {"amount": 5}, user=user, key="k"))["transfer_id"] for user in (3, 1, 2)]
    returned = answer(post(funded, f"{FIND}/{made[0]}/reverse", {}, user=ADMIN, key="k"))["transfer_id"]
    walked, cursor = list[str](), dict[str, str]()
    while True:
        page = found(funded, user=ADMIN, idempotency_key="k", page_size=1, **cursor)
        walked += [each["job_id"] for each in page["transfers"]]
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert walked == [returned, made[1], made[2], made[0]]  # administrators', and those of users 1, 2 and 3


def test_pages_go_on_where_the_last_one_ended(funded: FlaskClient, moved: dict[str, str]) -> None:
    walked, cursor = list[str](), dict[str, str]()
    while True:
        page = found(funded, page_size=2, **cursor)
        walked += [each["job_id"] for each in page["transfers"]]
        fund(funded, 1)  # newer than all of them
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert walked == [moved[name] for name in ("dead", "withdrawn", "received", "paid", "opened 1")]


def test_a_page_may_be_empty_and_say_that_there_is_more(
    funded: FlaskClient, moved: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LOOK", 2)
    monkeypatch.setattr(listing, "MOST_LOOKS", 1)
    first = found(funded, kind="deposit")
    assert (first["transfers"], first["has_more"]) == ([], True)
    second = found(funded, kind="deposit", cursor=first["next_cursor"])
    assert second["transfers"] == []
    assert ids(funded, kind="deposit", cursor=second["next_cursor"]) == [moved["opened 1"]]


@pytest.mark.parametrize(
    "query",
    [
        *(f"{name}=" for name in sorted(EVERYTHING)),
        "status=lost", "kind=withdraw", "direction=both", "counterparty_user_id=0", "counterparty_user_id=x",
        "reference=%C3%A9", f"reference={'r' * 65}", f"idempotency_key={'k' * 256}", "idempotency_key=%00",
        "bulk_id=-1",
        "amount_min=-1", "amount_min=1.0", f"amount_max={2**63}", "created_from=2026-11-01", "created_to=yesterday",
        "created_to=2026-11-01T00:00:00+01:00", "page_size=0", "page_size=101", "page=1", "type=1", "nothing=1",
        "cursor=1", "cursor=x-1", "cursor=-1-1", "cursor=1-0", f"cursor=1-{2**63}", "cursor=123456789012345678-1",
        "status=failed&status=failed", "user_id=1", "user_id=2",
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(funded: FlaskClient, query: str) -> None:
    refused = problem(get(funded, f"{FIND}?{query}"), "bad_input")
    assert query.partition("=")[0] in refused["detail"]


@pytest.mark.parametrize(
    ("query", "needs"),
    [
        ("direction=in", "user_id"),
        ("counterparty_user_id=1", "user_id"),
        ("direction=in&idempotency_key=k", "user_id"),
        ("amount_min=1", "user_id, idempotency_key, reference, bulk_id, a status other than posted"),
        ("amount_max=9&status=posted", "31 days"),
        ("kind=deposit&created_from=2026-01-01T00:00:00Z&created_to=2026-02-02T00:00:00Z", "31 days"),
    ],
)
def test_an_administrator_is_told_what_a_list_needs(funded: FlaskClient, query: str, needs: str) -> None:
    refused = problem(get(funded, f"{FIND}?{query}", user=ADMIN), "bad_input")
    assert refused["detail"].startswith(f"query: {query.partition('=')[0]}: needs ")
    assert needs in refused["detail"]


def test_a_user_without_a_wallet_has_no_list(client: FlaskClient) -> None:
    problem(get(client, FIND), "wallet_not_found")
    problem(get(client, f"{FIND}?user_id=9", user=ADMIN), "wallet_not_found")
    assert ids(client, user=ADMIN) == []


@pytest.mark.parametrize("path", [FIND, f"{FIND}/1"])
@pytest.mark.parametrize("credentials", [None, "x", basic("admin", "wrong"), "Bearer x"])
def test_nobody_else_may_look(client: FlaskClient, path: str, credentials: str | None) -> None:
    problem(ask(client, "GET", path, user=credentials), "unauthorized")


def test_a_transfer_is_its_parties_and_administrators_alone(funded: FlaskClient, moved: dict[str, str]) -> None:
    for user in (2, 3, ADMIN):
        assert answer(get(funded, f"{FIND}/{moved['others']}", user=user))["amount"] == 60
    problem(get(funded, f"{FIND}/{moved['others']}"), "job_not_found")
    for unknown in ("0", "1", "abc", str(2**63)):
        problem(get(funded, f"{FIND}/{unknown}", user=ADMIN), "job_not_found")
    problem(get(funded, f"{FIND}/{moved['paid']}?wait=1"), "bad_input")


def test_looking_takes_of_the_users_budget(make_app: AppMaker) -> None:
    client = make_app(rate_limit="1/minute;burst=2").test_client()
    answer(post(client, DEPOSIT, {"amount": 1}))
    assert get(client, FIND).headers["RateLimit"].startswith('"user";r=0')
    problem(get(client, FIND), "rate_limited")


@pytest.mark.parametrize("user", [1, ADMIN])
def test_with_postgresql_gone_there_is_no_list(cut_client: FlaskClient, postgres_proxy: TcpProxy, user: int) -> None:
    postgres_proxy.refuse()
    problem(get(cut_client, FIND, user=user), "unavailable")
