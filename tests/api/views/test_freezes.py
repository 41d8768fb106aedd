"""Freezing wallets over HTTP: who may, what is answered, what is refused, and that the balance shows it at once."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    JOBS,
    TRANSFER,
    TRANSFER_LATER,
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
from tests.books import check_books
from tests.proxy import TcpProxy

WALLETS = "/api/wallets/v1"
SIDES = [(True, False), (False, True), (True, True)]
# Movements by user 1, or to him: path, body, by whom, and which side of his wallet they need.
MOVEMENTS = [
    (DEPOSIT, {"amount": 1}, 1, "credits"),
    (WITHDRAW, {"amount": 1}, 1, "debits"),
    (TRANSFER, {"amount": 1, "destination_user_id": 2}, 1, "debits"),
    (TRANSFER, {"amount": 1, "destination_user_id": 1}, 2, "credits"),
    (TRANSFER_LATER, {"amount": 1, "destination_user_id": 2}, 1, "debits"),
    (TRANSFER_LATER, {"amount": 1, "destination_user_id": 1}, 2, "credits"),
]


@pytest.fixture(autouse=True)
def sound_books(engine: Engine) -> Any:
    """After the test, whatever it did, the books balance."""
    yield
    check_books(engine)


def change(client: FlaskClient, what: str, body: Json | bytes | None = None, *, user: object = 1) -> Json:
    """Freeze a user's wallet, or let it go."""
    return answer(ask(client, "POST", f"{WALLETS}/{user}/{what}", user=ADMIN, body=body))


def frozen(client: FlaskClient, user: int = 1) -> object:
    """What the balance call says of it, None: nothing."""
    return answer(get(client, BALANCE, user=user)).get("frozen")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/freeze"), ("POST", "/unfreeze")])
@pytest.mark.parametrize(
    ("credentials", "code"), [(1, "forbidden"), (None, "unauthorized"), (basic("admin", "wrong"), "unauthorized")]
)
def test_only_administrators_may(
    funded: FlaskClient, method: str, path: str, credentials: int | str | None, code: str
) -> None:
    body = {"debits": True, "reason": "why"} if method == "POST" else None
    problem(ask(funded, method, f"{WALLETS}/1{path}", user=credentials, body=body), code)
    assert frozen(funded) is None


@pytest.mark.parametrize(("debits", "credits_"), SIDES)
def test_each_side_forbids_its_movements_and_no_others(funded: FlaskClient, debits: bool, credits_: bool) -> None:
    sides = {"debits": debits, "credits": credits_}
    shown = change(funded, "freeze", {**sides, "reason": "court order"})
    assert is_instant(shown["frozen"].pop("at"))
    assert shown["frozen"] == {**sides, "reason": "court order", "by": "admin"}
    for path, body, user, side in MOVEMENTS:
        response = post(funded, path, body, user=user)
        if sides[side]:
            whose = "payer" if side == "debits" else "payee"
            assert f"The {whose}'s wallet" in problem(response, "wallet_frozen")["detail"]
        else:
            assert response.status_code in {200, 202}
    change(funded, "unfreeze")
    for path, body, user, _ in MOVEMENTS:
        assert post(funded, path, body, user=user).status_code in {200, 202}


def test_the_balance_shows_it_at_once_and_is_as_it_was_otherwise(funded: FlaskClient) -> None:
    for _ in range(2):  # the second time from the cache
        assert answer(get(funded, BALANCE)) == {"balance": 10_000}
    change(funded, "freeze", {"debits": True, "credits": False, "reason": "why"})
    for _ in range(2):
        assert answer(get(funded, BALANCE)) == {"balance": 10_000, "frozen": {"debits": True, "credits": False}}
    assert answer(get(funded, BALANCE, user=2)) == {"balance": 10_000}
    change(funded, "freeze", {"credits": True, "reason": "why"})
    assert answer(get(funded, BALANCE)) == {"balance": 10_000, "frozen": {"debits": True, "credits": True}}
    change(funded, "unfreeze", {"debits": True})
    answer(post(funded, TRANSFER, {"amount": 1, "destination_user_id": 2}))
    for _ in range(2):
        assert answer(get(funded, BALANCE)) == {"balance": 9_999, "frozen": {"debits": False, "credits": True}}
    change(funded, "unfreeze")
    for _ in range(2):
        assert answer(get(funded, BALANCE)) == {"balance": 9_999}


def test_what_is_queued_is_rejected(funded: FlaskClient, settle: Callable[[str], None]) -> None:
    pays, is_paid = accept(funded), accept(funded, user=2, to=1)
    change(funded, "freeze", {"debits": True, "reason": "why"})
    for job_id in (pays, is_paid):
        settle(job_id)
    job = answer(get(funded, f"{JOBS}/{pays}"))
    assert (job["status"], job["reason"]) == ("rejected", "wallet_frozen")
    assert answer(get(funded, f"{JOBS}/{is_paid}"))["status"] == "posted"


def test_an_administrator_gives_back_what_is_frozen_and_its_payee_cannot(funded: FlaskClient) -> None:
    paid = answer(post(funded, TRANSFER, {"amount": 100, "destination_user_id": 2}))["transfer_id"]
    deposited = answer(post(funded, DEPOSIT, {"amount": 5}, user=2))["transfer_id"]
    for user in (1, 2):
        change(funded, "freeze", {"debits": True, "credits": True, "reason": "why"}, user=user)
    reverse = f"/api/transfers/v1/{paid}/reverse"
    assert "The payer's wallet" in problem(ask(funded, "POST", reverse, user=2), "wallet_frozen")["detail"]
    answer(ask(funded, "POST", reverse, user=ADMIN))
    answer(ask(funded, "POST", f"/api/transfers/v1/{deposited}/reverse", user=ADMIN))
    assert [answer(get(funded, BALANCE, user=user))["balance"] for user in (1, 2)] == [10_000, 10_000]


def test_what_is_named_is_so_afterwards_and_what_is_not_stays(funded: FlaskClient) -> None:
    why = {"reason": "why"}
    for body, sides in (
        ({"debits": True}, (True, False)),
        ({"credits": True}, (True, True)),
        ({"debits": True, "credits": False}, (True, False)),
        ({"debits": False, "credits": True}, (False, True)),
    ):
        shown = change(funded, "freeze", {**body, **why})["frozen"]
        assert (shown["debits"], shown["credits"]) == sides
    assert change(funded, "unfreeze", {"debits": True})["frozen"] is not None
    assert change(funded, "unfreeze", {"debits": False, "credits": True})["frozen"] is None


@pytest.mark.parametrize("body", [None, {}, {"reason": "over"}, {"debits": True, "credits": True}])
def test_a_wallet_is_let_go_whole(funded: FlaskClient, body: Json | None) -> None:
    change(funded, "freeze", {"debits": True, "credits": True, "reason": "why"})
    assert change(funded, "unfreeze", body)["frozen"] is None
    assert change(funded, "unfreeze", body)["frozen"] is None


def test_a_repetition_changes_nothing_and_says_so_in_the_record(funded: FlaskClient) -> None:
    body = {"debits": True, "credits": True, "reason": "why"}
    first, again = (change(funded, "freeze", body) for _ in range(2))
    assert first == again
    for _ in range(2):
        change(funded, "unfreeze")
    problem(ask(funded, "POST", f"{WALLETS}/9/freeze", user=ADMIN, body=body), "wallet_not_found")
    problem(ask(funded, "POST", f"{WALLETS}/1/freeze", user=ADMIN, body={}), "bad_input")
    acts = answer(get(funded, "/api/actions/v1", user=ADMIN))["actions"]
    assert [(each["what"], each["on"], each["outcome"]) for each in reversed(acts)] == [
        ("wallet.freeze", "1", "done"),
        ("wallet.freeze", "1", "unchanged"),
        ("wallet.unfreeze", "1", "done"),
        ("wallet.unfreeze", "1", "unchanged"),
        ("wallet.freeze", "9", "wallet_not_found"),
        ("wallet.freeze", "1", "bad_input"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"debits": True}, {"reason": "why"}, {"debits": False, "reason": "why"}, b"", b"[]", b"no",
        {"debits": False, "credits": False, "reason": "why"}, {"debits": 1, "reason": "why"},
        {"debits": "true", "reason": "why"}, {"debits": None, "reason": "why"}, {"debits": True, "reason": ""},
        {"debits": True, "reason": "x" * 501}, {"debits": True, "reason": "a\nb"}, {"debits": True, "reason": 1},
        {"debits": True, "reason": "why", "more": 1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_freezes_nothing(funded: FlaskClient, body: Json | bytes) -> None:
    problem(ask(funded, "POST", f"{WALLETS}/1/freeze", user=ADMIN, body=body), "bad_input")
    assert frozen(funded) is None


@pytest.mark.parametrize("body", [{"debits": False}, {"credits": False}, {"debits": 1}, {"reason": ""}, b"[]"])
def test_what_makes_no_sense_lets_nothing_go(funded: FlaskClient, body: Json | bytes) -> None:
    change(funded, "freeze", {"debits": True, "reason": "why"})
    problem(ask(funded, "POST", f"{WALLETS}/1/unfreeze", user=ADMIN, body=body), "bad_input")
    assert frozen(funded) == {"debits": True, "credits": False}


@pytest.mark.parametrize("user", ["9", "0", "x", "-1", "9223372036854775808", "9" * 30])
def test_a_wallet_that_does_not_exist_is_not_found(funded: FlaskClient, user: str) -> None:
    problem(get(funded, f"{WALLETS}/{user}", user=ADMIN), "wallet_not_found")
    body = {"debits": True, "reason": "why"}
    problem(ask(funded, "POST", f"{WALLETS}/{user}/freeze", user=ADMIN, body=body), "wallet_not_found")
    problem(ask(funded, "POST", f"{WALLETS}/{user}/unfreeze", user=ADMIN), "wallet_not_found")


def test_a_wallet_is_shown_to_administrators(funded: FlaskClient) -> None:
    shown = answer(get(funded, f"{WALLETS}/1", user=ADMIN))
    assert is_instant(shown.pop("opened_at"))
    assert shown == {"user_id": "1", "balance": 10_000, "version": 1, "frozen": None}
    change(funded, "freeze", {"credits": True, "reason": "why"})
    shown = answer(get(funded, f"{WALLETS}/1", user=ADMIN))
    assert is_instant(shown["frozen"].pop("at"))
    assert shown["frozen"] == {"debits": False, "credits": True, "reason": "why", "by": "admin"}


def test_frozen_wallets_are_counted(client: FlaskClient) -> None:
    fund(client, 1, 2, 3)
    for user in (1, 2):
        change(client, "freeze", {"credits": True, "reason": "why"}, user=user)
    change(client, "unfreeze", user=2)
    assert "wallet_frozen_wallets 1.0" in get(client, "/metrics", user=None).text.splitlines()


def test_with_postgresql_gone_it_is_unavailable(cut_client: FlaskClient, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    body = {"debits": True, "reason": "why"}
    problem(ask(cut_client, "POST", f"{WALLETS}/1/freeze", user=ADMIN, body=body), "unavailable")
    problem(get(cut_client, f"{WALLETS}/1", user=ADMIN), "unavailable")
