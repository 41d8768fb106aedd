"""The page to try the API on: all of it comes from here, and its policy lets nothing else in."""

import re

import pytest
from flask.testing import FlaskClient

from tests.api.calls import ask, get, problem

PAGE = "/docs"
_REFERENCES = re.compile(r'(?:src|href)="([^"]*)"')


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/"])
def test_the_page_is_there_with_and_without_a_slash(client: FlaskClient, path: str) -> None:
    response = get(client, path, user=None)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    assert response.data == get(client, PAGE, user=None).data


def test_everything_that_the_page_refers_to_is_served_from_here(client: FlaskClient) -> None:
    references = _REFERENCES.findall(get(client, PAGE, user=None).text)
    assert len(references) >= 4
    for path in references:
        assert path.startswith("/"), path
        assert not path.startswith("//"), path
        response = get(client, path, user=None)
        assert response.status_code == 200, path
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_style_sheet_loads_nothing(client: FlaskClient) -> None:
    styles = get(client, f"{PAGE}/swagger-ui.css", user=None).text
    assert "@import" not in styles
    assert all(url.lstrip("\"'").startswith("data:") for url in re.findall(r"url\(([^)]{0,20})", styles))


def test_the_policy_allows_no_inline_script_and_nothing_from_elsewhere(client: FlaskClient) -> None:
    response = get(client, PAGE, user=None)
    policy = dict(each.strip().split(" ", 1) for each in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} == {"'none'", "'self'", "data:"}
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    # Nothing on the page is what the policy forbids.
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=|javascript:", response.text)


def test_the_page_asks_no_validator_elsewhere(client: FlaskClient) -> None:
    assert "validatorUrl: null" in get(client, f"{PAGE}/start.js", user=None).text


def test_an_asset_is_sent_once(client: FlaskClient) -> None:
    first = get(client, f"{PAGE}/swagger-ui-bundle.js", user=None)
    assert "max-age" in first.headers["Cache-Control"]
    headers = {"If-None-Match": first.headers["ETag"]}
    again = ask(client, "GET", f"{PAGE}/swagger-ui-bundle.js", user=None, headers=headers)
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "name", ["x", "index.html", "swagger-ui.js", "../docs.py", "..%2fdocs.py", "..", "start.js/", "%00", "a/b"]
)
def test_nothing_else_is_served(client: FlaskClient, name: str) -> None:
    problem(get(client, f"{PAGE}/{name}", user=None), "not_found")
