"""Every answer, whatever it is, tells browsers and caches to keep their hands off."""

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from tests.api.calls import BALANCE, DEPOSIT, ask, fund, get, undocumented

EXPECTED = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", BALANCE, 200),
        ("GET", "/healthz", 200),
        ("GET", "/nowhere", 404),
        ("GET", DEPOSIT, 405),
        ("POST", DEPOSIT, 415),
        ("OPTIONS", DEPOSIT, 200),
    ],
)
def test_they_are_on_every_answer_once(client: FlaskClient, method: str, path: str, status: int) -> None:
    fund(client, 1)
    response = ask(client, method, path)
    assert response.status_code == status
    for name, value in EXPECTED.items():
        assert response.headers.getlist(name) == [value]
    # Neither without HTTPS nor without being asked.
    assert "Strict-Transport-Security" not in response.headers
    assert not [name for name in response.headers.keys() if name.startswith("Access-Control-")]  # noqa: SIM118


def test_a_page_keeps_what_it_says_of_itself(app: Flask) -> None:
    own = {
        "Content-Security-Policy": "default-src 'self'",
        "Cache-Control": "max-age=60",
        "X-Frame-Options": "SAMEORIGIN",
    }
    app.add_url_rule("/page", view_func=lambda: Response("page", headers=own))
    response = get(undocumented(app), "/page")
    for name, value in (EXPECTED | own).items():
        assert response.headers.getlist(name) == [value]
