"""Only the pages of CORS_ORIGINS may read answers, and they need no permission to ask for permission."""

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.access.cors import EXPOSED
from tests.api.calls import ADMIN, BALANCE, DEPOSIT, MOVES, TRANSFER_LATER, answer, ask, fund, problem
from tests.api.conftest import AppMaker

APP, IPV6 = "https://app.example", "http://[::1]:3000"
OTHERS = [
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://xapp.example",
    "https://appxexample",
    "http://1:3000",
    "http://[::1]:30001",
    "null",
    "*",
    "",
]


@pytest.fixture
def open_client(make_app: AppMaker) -> FlaskClient:
    """A client of an application that two pages may call."""
    return make_app(cors_origins=f"{APP},{IPV6}").test_client()


def granted(response: TestResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def preflight(client: FlaskClient, path: str, origin: str, *, method: str = "POST") -> TestResponse:
    wanted = "authorization, content-type, idempotency-key, traceparent, x-other"
    headers = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted, "Origin": origin}
    return ask(client, "OPTIONS", path, user=None, headers=headers)


@pytest.mark.parametrize("origin", [APP, IPV6])
@pytest.mark.parametrize("path", MOVES)
def test_a_preflight_needs_no_credentials(open_client: FlaskClient, path: str, origin: str) -> None:
    response = preflight(open_client, path, origin)
    assert response.status_code == 200
    given = granted(response)
    assert given["Access-Control-Allow-Origin"] == origin
    assert given["Access-Control-Allow-Headers"] == "authorization, content-type, idempotency-key, traceparent"
    assert set(given["Access-Control-Allow-Methods"].split(", ")) == {"GET", "HEAD", "POST"}
    assert "Access-Control-Allow-Credentials" not in given
    assert "Origin" in response.headers["Vary"]


def test_a_listed_page_reads_answers_and_the_headers_that_clients_need(open_client: FlaskClient) -> None:
    fund(open_client, 1, 2)
    accepted = ask(open_client, "POST", TRANSFER_LATER, body=MOVES[TRANSFER_LATER], headers={"Origin": APP})
    refused = ask(open_client, "GET", BALANCE, user=None, headers={"Origin": APP})
    problem(refused, "unauthorized")
    for response in (accepted, refused):
        given = granted(response)
        assert given.keys() == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}
        assert given["Access-Control-Allow-Origin"] == APP
        assert set(given["Access-Control-Expose-Headers"].split(", ")) == set(EXPOSED)
    assert {"Location", "Retry-After", "X-Request-ID", "traceparent"} <= {*EXPOSED} & {*accepted.headers.keys()}


@pytest.mark.parametrize("origin", OTHERS)
def test_no_other_page_is_granted_anything(open_client: FlaskClient, origin: str) -> None:
    fund(open_client, 1)
    response = ask(open_client, "GET", BALANCE, headers={"Origin": origin})
    answer(response)
    assert granted(response) == {}
    assert granted(preflight(open_client, DEPOSIT, origin)) == {}


def test_without_an_origin_nothing_is_said(open_client: FlaskClient) -> None:
    assert granted(ask(open_client, "GET", BALANCE)) == {}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/rq/", "/docs", "/metrics"])
def test_only_the_api_is_open(open_client: FlaskClient, path: str) -> None:
    assert granted(ask(open_client, "GET", path, user=ADMIN, headers={"Origin": APP})) == {}


@pytest.mark.parametrize("origin", [APP, *OTHERS])
def test_by_default_no_page_is_granted_anything(client: FlaskClient, origin: str) -> None:
    assert granted(ask(client, "GET", BALANCE, headers={"Origin": origin})) == {}
    assert granted(preflight(client, DEPOSIT, origin)) == {}
