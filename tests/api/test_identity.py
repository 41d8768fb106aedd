"""Who may ask: a plain positive integer is a user, HTTP Basic is an administrator, all else is nobody."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.errors import ApiError
from api.identity import require_admin
from tests.api.calls import ADMIN, BALANCE, HISTORY, JOBS, MAX_INT64, MOVES, answer, ask, basic, fund, get, problem
from tests.api.conftest import Books

NOBODY = [
    None,
    "",
    "0",
    "-1",
    "+1",
    "01",
    "1.0",
    "1e0",
    "abc",
    "1 2",
    "1,2",
    "1\n",
    "0x1",
    "1_0",
    "true",
    "9223372036854775808",  # 2^63
    "99999999999999999999",
    "9" * 5_000,
    "\xb2",  # a digit to Python's str.isdigit
    "\xd9\xa1",  # the Arabic digit one in UTF-8, as WSGI passes it on
    "Bearer 1",
    "Bearer x",
    "UserId 1",
    ADMIN,
    basic("1", ""),
]


@pytest.mark.parametrize("credentials", NOBODY, ids=lambda value: repr(value)[:24])
def test_whoever_names_no_user_is_unauthorized_and_moves_nothing(
    funded: FlaskClient, books: Callable[[], Books], credentials: str | None
) -> None:
    before = books()
    headers = {} if credentials is None else {"HTTP_AUTHORIZATION": credentials}
    for path in (*MOVES, BALANCE, HISTORY):
        # Past the client's own checks: a server passes on whatever it was sent.
        method = "POST" if path in MOVES else "GET"
        response = funded.open(path, method=method, json=MOVES.get(path), environ_overrides=headers)
        problem(response, "unauthorized")
        assert response.headers["WWW-Authenticate"]
    assert books() == before


@pytest.mark.parametrize("credentials", [None, "0", "abc", "Bearer x", basic("admin", "wrong")])
def test_a_job_is_shown_to_nobody(client: FlaskClient, credentials: str | None) -> None:
    response = get(client, f"{JOBS}/1", user=credentials)
    problem(response, "unauthorized")
    assert response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("user", [1, 2**53 + 1, MAX_INT64])
def test_every_positive_int64_is_a_user(client: FlaskClient, user: int) -> None:
    fund(client, user, amount=5)
    assert answer(get(client, BALANCE, user=user)) == {"balance": 5}


def test_credentials_are_checked_before_anything_else(client: FlaskClient) -> None:
    problem(ask(client, "POST", "/api/deposit/v1?x=1", user=None, body=b"{"), "unauthorized")


def test_probes_need_no_credentials(client: FlaskClient) -> None:
    assert [get(client, path, user=None).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        (ADMIN, None),
        (ADMIN.replace("Basic", "bAsIc"), None),
        ("1", "forbidden"),
        ("", "unauthorized"),
        (basic("admin", "wrong"), "unauthorized"),
        (basic("Admin", "test-admin"), "unauthorized"),
        ("Basic \xe9", "unauthorized"),
    ],
)
def test_only_administrators_pass_where_they_alone_may(app: Flask, credentials: str, code: str | None) -> None:
    with app.test_request_context(environ_overrides={"HTTP_AUTHORIZATION": credentials}):
        if code is None:
            require_admin()
            return
        with pytest.raises(ApiError) as refusal:
            require_admin()
        assert refusal.value.code == code
        assert ("WWW-Authenticate" in refusal.value.headers) == (code == "unauthorized")
