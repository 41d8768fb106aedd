"""rq-dashboard stands apart: no request of the API's meets it, and no spelling of a path gets past its guard."""

import threading

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.dashboard.mount import Mount
from tests.api.calls import ADMIN, get, problem
from tests.api.conftest import AppMaker


@pytest.mark.parametrize("path", ["//rq", "//rq/", "///rq/0/data/queues.json", "/./rq/", "/rqx", "/RQ/", "/x/../rq/"])
@pytest.mark.parametrize("user", [None, ADMIN])
def test_it_has_one_name(client: FlaskClient, path: str, user: str | None) -> None:
    """A path with more slashes once led to it past its guard."""
    for method in ("GET", "POST"):
        response = client.open("/", method=method, environ_overrides={"PATH_INFO": path}, headers=_credentials(user))
        problem(response, "not_found")


@pytest.mark.parametrize("path", ["/queue/transfers/queued/empty", "//requeue/transfers", "/0//view/jobs", "//"])
def test_nobody_else_gets_in_by_slashes_further_on(make_app: AppMaker, path: str) -> None:
    client = make_app(rate_limit="off").test_client()
    for method in ("GET", "POST"):
        problem(client.open("/", method=method, environ_overrides={"PATH_INFO": f"/rq{path}"}), "unauthorized")


def test_the_api_has_no_routes_of_it(app: Flask) -> None:
    assert [rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/rq")] == []


def test_it_is_made_once_and_by_those_who_ask_for_it(app: Flask) -> None:
    mount = Mount(app)
    assert mount._dashboard is None
    made: list[Flask] = []
    threads = [threading.Thread(target=lambda: made.append(mount._make_dashboard())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, made))) == 1
    assert "rq_dashboard" in made[0].blueprints


def test_its_route_is_told_to_metrics_and_log(client: FlaskClient) -> None:
    assert get(client, "/rq/0/view/workers", user=ADMIN).status_code == 200
    assert 'route="/rq/<int:instance_number>/view/workers"' in get(client, "/metrics", user=ADMIN).text


def _credentials(user: str | None) -> dict[str, str]:
    return {} if user is None else {"Authorization": user}
