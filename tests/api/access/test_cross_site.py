"""An administrator's browser changes nothing for another site's page; its own page and curl may."""

import pytest
from flask.testing import FlaskClient

from tests.api.calls import ADMIN, DEPOSIT, answer, ask, fund, post, problem
from tests.api.conftest import AppMaker

DEAD_LETTERS = "/api/dead-letters/v1"
REQUEUE = f"{DEAD_LETTERS}/requeue"
PROXIED = {"REMOTE_ADDR": "10.0.0.1"}

OURS = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost"},
    {"Origin": "https://localhost"},
    {"Origin": "http://LOCALHOST"},
]
THEIRS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "SAME-ORIGIN"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "localhost"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://evil.example/localhost"},
    {"Origin": "file://localhost"},
    # Not from a proxy that is trusted.
    {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
]


@pytest.mark.parametrize("headers", OURS, ids=repr)
def test_from_our_own_pages_and_from_none_it_passes(client: FlaskClient, headers: dict[str, str]) -> None:
    answer(ask(client, "POST", REQUEUE, user=ADMIN, headers=headers))


@pytest.mark.parametrize("headers", THEIRS, ids=repr)
def test_from_another_site_it_is_forbidden(client: FlaskClient, headers: dict[str, str]) -> None:
    problem(ask(client, "POST", REQUEUE, user=ADMIN, headers=headers), "forbidden")
    problem(ask(client, "POST", f"{DEAD_LETTERS}/1/requeue", user=ADMIN, headers=headers), "forbidden")


@pytest.mark.parametrize("headers", THEIRS, ids=repr)
def test_what_changes_nothing_and_what_no_browser_adds_a_password_to_passes(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    answer(ask(client, "GET", DEAD_LETTERS, user=ADMIN, headers=headers))
    fund(client, 1)
    answer(post(client, DEPOSIT, {"amount": 1}, headers=headers))


def test_without_a_password_nothing_is_told_of_sites(client: FlaskClient) -> None:
    problem(ask(client, "POST", REQUEUE, user=None, headers=THEIRS[0]), "unauthorized")


def test_a_page_that_may_call_the_api_is_still_not_an_administrators(make_app: AppMaker) -> None:
    client = make_app(cors_origins="https://app.example").test_client()
    problem(ask(client, "POST", REQUEUE, user=ADMIN, headers={"Origin": "https://app.example"}), "forbidden")


@pytest.mark.parametrize(
    ("origin", "host", "code"),
    [
        ("https://wallet.example", "wallet.example", None),
        ("https://wallet.example", "wallet.example:443", None),
        ("https://wallet.example:8443", "wallet.example:8443", None),
        ("https://wallet.example", "wallet.example:8443", "forbidden"),
        ("https://wallet.example", "wallet.example:80", "forbidden"),
        ("https://evil.example", "wallet.example", "forbidden"),
        ("http://localhost", "wallet.example", "forbidden"),
    ],
)
def test_behind_a_trusted_proxy_the_host_that_the_browser_sees_counts(
    make_app: AppMaker, origin: str, host: str, code: str | None
) -> None:
    client = make_app(trusted_proxies="10.0.0.1").test_client()
    headers = {"Authorization": ADMIN, "Origin": origin, "X-Forwarded-Host": host}
    response = client.post(REQUEUE, headers=headers, environ_base=PROXIED)
    if code is None:
        answer(response)
    else:
        problem(response, code)
