"""Who may ask: a plain positive integer is a user, HTTP Basic is an administrator, all else is nobody."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.access.administrators import require_admin
from api.calls import tracing
from api.calls.call import Call
from api.calls.problems import ApiError
from tests.api.access.provider import SECRET, SigningKey, bearer, provider, signed
from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MAX_INT64,
    MOVES,
    WITHDRAW,
    answer,
    ask,
    basic,
    decode,
    fund,
    get,
    post,
    problem,
)
from tests.api.conftest import AppMaker
from tests.conftest import Books

DEAD_LETTERS = "/api/dead-letters/v1"

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
    call = Call(tracing.begin(None, None), credentials, lambda: "127.0.0.1")
    with app.test_request_context(environ_overrides={"wallet.call": call}):
        if code is None:
            require_admin()
            return
        with pytest.raises(ApiError) as refusal:
            require_admin()
        assert refusal.value.code == code
        assert ("WWW-Authenticate" in refusal.value.headers) == (code == "unauthorized")


@pytest.fixture
def jwt_client(make_app: AppMaker) -> FlaskClient:
    """A client of an application that takes tokens, signed with the secret."""
    return make_app(auth_mode="jwt", jwt_secret=SECRET).test_client()


def test_a_token_is_its_user_everywhere(jwt_client: FlaskClient) -> None:
    token = bearer(signed())
    answer(post(jwt_client, DEPOSIT, {"amount": 10_000}, user=bearer(signed(sub="2"))))
    answer(post(jwt_client, DEPOSIT, {"amount": 10_000}, user=token))
    for path, body in MOVES.items():
        moved = post(jwt_client, path, body, user=token.replace("Bearer", "bEARER"), key=path)
        assert moved.status_code in {200, 202}
        job_id = decode(moved.data).get("job_id", decode(moved.data).get("transfer_id"))
        answer(get(jwt_client, f"{JOBS}/{job_id}", user=token))
        assert post(jwt_client, path, body, user=token, key=path).headers["Idempotency-Replayed"] == "true"
    assert answer(get(jwt_client, BALANCE, user=token)) == {"balance": 9_933}
    assert get(jwt_client, HISTORY, user=token).status_code == 200
    answer(get(jwt_client, f"{JOBS}/{job_id}", user=ADMIN))


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        # Who has sent nothing has made no error (RFC 6750, 3.1).
        (None, ""),
        ("1", ', error="invalid_token", error_description="Authorization must be a bearer token."'),
        (ADMIN, ', error="invalid_token", error_description="Authorization must be a bearer token."'),
        ("Bearer", ', error="invalid_token", error_description="The token is not well-formed."'),
        ("Bearer 1", ', error="invalid_token", error_description="The token is not well-formed."'),
        (bearer(signed(exp=1)), ', error="invalid_token", error_description="The token has expired."'),
    ],
    ids=lambda value: repr(value)[:16],
)
def test_whoever_has_no_good_token_is_told_why(jwt_client: FlaskClient, credentials: str | None, said: str) -> None:
    for path in (*MOVES, BALANCE, HISTORY):
        response = ask(jwt_client, "POST" if path in MOVES else "GET", path, user=credentials, body=MOVES.get(path))
        problem(response, "unauthorized")
        assert response.headers["WWW-Authenticate"] == f'Bearer realm="wallet"{said}'


def test_in_user_id_mode_a_token_is_nobody(client: FlaskClient) -> None:
    response = get(client, BALANCE, user=bearer(signed()))
    problem(response, "unauthorized")
    assert response.headers["WWW-Authenticate"] == 'UserId realm="wallet"'


def test_a_user_with_a_token_is_no_administrator(jwt_client: FlaskClient) -> None:
    problem(get(jwt_client, DEAD_LETTERS, user=bearer(signed())), "forbidden")
    for nobody in (None, "1", bearer(signed(exp=1)), basic("admin", "wrong")):
        response = get(jwt_client, DEAD_LETTERS, user=nobody)
        problem(response, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
    answer(get(jwt_client, DEAD_LETTERS, user=ADMIN))


@pytest.mark.parametrize(
    ("granted", "may"),
    [
        ({}, False),
        ({"scope": "read deposits wallet:deposit2 wallet"}, False),
        ({"scope": "read wallet:deposit"}, True),
        ({"scp": ["wallet:deposit"]}, True),
    ],
)
def test_with_a_deposit_scope_only_its_holders_make_money(
    make_app: AppMaker, books: Callable[[], Books], granted: dict[str, object], *, may: bool
) -> None:
    client = make_app(auth_mode="jwt", jwt_secret=SECRET, deposit_scope="wallet:deposit").test_client()
    answer(post(client, DEPOSIT, {"amount": 100}, user=bearer(signed(scope="wallet:deposit"))))
    token = bearer(signed(**granted))
    before = books()
    response = post(client, DEPOSIT, {"amount": 67}, user=token)
    if may:
        assert answer(response)["balance"] == 167
    else:
        problem(response, "forbidden")
        challenge = 'Bearer realm="wallet", error="insufficient_scope", scope="wallet:deposit"'
        assert response.headers["WWW-Authenticate"] == challenge
        assert books() == before
    # It is about deposits alone.
    answer(post(client, WITHDRAW, {"amount": 67}, user=token))


def test_with_the_provider_down_known_keys_go_on_and_nobody_is_called_a_liar(make_app: AppMaker) -> None:
    known, unknown = SigningKey("known"), SigningKey("unknown")
    with provider(known) as running:
        settings = {"auth_mode": "jwt", "jwt_jwks_url": running.url}
        client, other = make_app(**settings).test_client(), make_app(**settings).test_client()
        answer(post(client, DEPOSIT, {"amount": 67}, user=bearer(known.sign())))
    answer(get(client, BALANCE, user=bearer(known.sign(jti="another"))))
    problem(get(client, BALANCE, user=bearer(signed())), "unauthorized")
    # The provider, which was asked a moment ago, had no such key.
    problem(get(client, BALANCE, user=bearer(unknown.sign())), "unauthorized")
    # This one never got any: whoever has a good token shall try again, not sign in again.
    problem(get(other, BALANCE, user=bearer(known.sign())), "unavailable")
    problem(get(other, DEAD_LETTERS, user=bearer(known.sign())), "unavailable")
    problem(get(other, BALANCE, user=bearer(signed())), "unauthorized")
    answer(get(other, DEAD_LETTERS, user=ADMIN))
