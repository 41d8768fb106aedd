"""Below a path of a proxy's, everything that spells a path puts it in front: the proxy takes it off again."""

import http.client
import re
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import Engine

from api.edge.proxies import MAX_PREFIX_LENGTH
from tests.api.calls import ADMIN, DEPOSIT, JOBS, TRANSFER_LATER, accept, answer, fund, get, post, problem
from tests.api.conftest import AppMaker
from tests.api.server import TIMEOUT_S, Answer, Gunicorn, encode, gunicorn, json_of
from tests.api.waiters import wait_for
from tests.conftest import ADMIN_PASSWORD
from tests.proxy import TcpProxy

PREFIX = "/money/wallet"
PROXY, STRANGER = "10.0.0.1", "198.51.100.7"
_REFERENCE = re.compile(r'(?:src|href|action)="(/[^"<{]*)"')


class PrefixProxy(TcpProxy):
    """Serves below a path, as nginx with ``location /money/wallet/ { proxy_pass http://…/; }`` does."""

    def _translate(self, data: bytes) -> bytes:
        if not data.startswith((b"GET ", b"POST ")):  # a body that comes by itself
            return data
        line, end, rest = data.partition(b"\r\n")
        method, target, version = line.decode().split(" ")
        assert target.startswith(PREFIX), f"{target} is not for this server"
        return f"{method} {target.removeprefix(PREFIX)} {version}\r\nX-Forwarded-Prefix: {PREFIX}".encode() + end + rest


@pytest.fixture
def direct(
    tmp_path: Path, engine: Engine, redis_client: redis.Redis, service_database_url: str, redis_url: str
) -> Iterator[Gunicorn]:
    """The server itself. What its own environment has for a prefix is nobody's business."""
    del engine, redis_client  # asked for to be emptied
    settings = {"DATABASE_URL": service_database_url, "REDIS_URL": redis_url, "API_PROCESSES": "1"}
    settings |= {"TRUSTED_PROXIES": "127.0.0.1", "ADMIN_PASSWORD": ADMIN_PASSWORD, "SCRIPT_NAME": "/elsewhere"}
    with gunicorn(tmp_path / "api.log", **settings) as server:
        yield server


@pytest.fixture
def proxied(direct: Gunicorn) -> Iterator[Gunicorn]:
    """The server as it is seen through the proxy."""
    with PrefixProxy(("127.0.0.1", direct.port)) as proxy:
        yield Gunicorn(proxy.port, direct.log, direct.process)


def ask(server: Gunicorn, method: str, path: str, *, user: str = "1", body: dict[str, int] | None = None) -> Answer:
    """Send a request, of a path that no document knows."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)) as connection:
        headers = json_of(1) | {"Authorization": user}
        connection.request(method, path, None if body is None else encode(body), headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def test_a_job_is_followed_to_where_its_answer_says(direct: Gunicorn, proxied: Gunicorn) -> None:
    for user in (1, 2):
        assert direct.move(DEPOSIT, {"amount": 100}, user=user).status == 200
    accepted = ask(proxied, "POST", PREFIX + TRANSFER_LATER, body={"destination_user_id": 2, "amount": 1})
    assert accepted.status == 202
    assert accepted.headers["location"] == accepted.json["status_url"]
    for path in (accepted.headers["location"], f"{PREFIX}{JOBS}/{accepted.json['job_id']}"):
        assert ask(proxied, "GET", path).json["job_id"] == accepted.json["job_id"]
    # Without the proxy there is no prefix.
    there = ask(direct, "POST", TRANSFER_LATER, body={"destination_user_id": 2, "amount": 1})
    assert there.headers["location"] == f"{JOBS}/{there.json['job_id']}"


def test_the_document_says_where_it_is_served(direct: Gunicorn, proxied: Gunicorn) -> None:
    document = ask(proxied, "GET", f"{PREFIX}/openapi.json").json
    assert document["servers"] == [{"url": PREFIX}]
    assert "/api/wallet/balance/v1" in document["paths"]
    assert ask(direct, "GET", "/openapi.json").json == document | {"servers": [{"url": "/"}]}


def references(page: Answer) -> list[str]:
    assert page.status == 200, page
    return [unescape(each) for each in _REFERENCE.findall(page.body.decode())]


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_for_trying_finds_its_files(proxied: Gunicorn, path: str) -> None:
    found = references(ask(proxied, "GET", PREFIX + path))
    assert len(found) >= 5
    for each in found:
        assert ask(proxied, "GET", each).status == 200, each
    # Which is how its script finds the document.
    script = next(each for each in found if each.endswith("/start.js"))
    assert ask(proxied, "GET", script.rpartition("/docs/")[0] + "/openapi.json").status == 200


def open_(server: Gunicorn, path: str) -> int:
    """Open a page of the dashboard, and return the status of where that leads."""
    found = ask(server, "GET", path, user=ADMIN)
    return open_(server, found.headers["location"]) if found.status == 308 else found.status


def test_the_dashboard_finds_its_pages_files_and_data(direct: Gunicorn, proxied: Gunicorn) -> None:
    for user in (1, 2):
        assert direct.move(DEPOSIT, {"amount": 100}, user=user).status == 200
    assert direct.move(TRANSFER_LATER, {"destination_user_id": 2, "amount": 1}).status == 202
    moved = ask(proxied, "GET", f"{PREFIX}/rq", user=ADMIN)
    assert (moved.status, moved.headers["location"]) == (308, f"{PREFIX}/rq/")
    for path in ("/rq/", "/rq/0/view/workers", "/rq/0/view/jobs"):
        page = ask(proxied, "GET", PREFIX + path, user=ADMIN)
        found = references(page)
        assert len(found) >= 8
        for each in found:
            # Those that change something are for POST.
            assert open_(proxied, each) in {200, 405}, each
        # What its scripts ask for they put together of this.
        assert f'"{PREFIX}/rq/"' in page.body.decode()
    data = f"{PREFIX}/rq/0/data/queues.json"
    wait_for(lambda: ask(proxied, "GET", data, user=ADMIN).json["queues"])  # the job is on its way to the queue
    queues = ask(proxied, "GET", data, user=ADMIN).json["queues"]
    for url in (value for queue in queues for name, value in queue.items() if name.endswith("_url")):
        assert open_(proxied, url) == 200, url
    assert [queue["name"] for queue in queues] == ["transfers"]


def location(client: FlaskClient, peer: str, *said: str) -> str:
    headers = {"Authorization": "1"} | ({"X-Forwarded-Prefix": ",".join(said)} if said else {})
    body = {"destination_user_id": 2, "amount": 1}
    response = client.post(TRANSFER_LATER, headers=headers, json=body, environ_base={"REMOTE_ADDR": peer})
    found = answer(response, 202)
    assert response.headers["Location"] == found["status_url"]
    return str(found["status_url"].removesuffix(f"{JOBS}/{found['job_id']}"))


@pytest.fixture
def behind(make_app: AppMaker) -> FlaskClient:
    """A client of an application that trusts its proxy."""
    client = make_app(trusted_proxies="10.0.0.0/8").test_client()
    fund(client, 1, 2)
    return client


@pytest.mark.parametrize(
    ("said", "prefix"),
    [
        ((), ""),
        (("",), ""),
        (("/",), ""),
        (("/wallet",), "/wallet"),
        (("/wallet/",), "/wallet"),
        (("/a/b-c/d.e_f~g",), "/a/b-c/d.e_f~g"),
        ((" /outer", " /inner/ "), "/outer/inner"),  # proxies in a row
        (("/" + "a" * (MAX_PREFIX_LENGTH - 1),), "/" + "a" * (MAX_PREFIX_LENGTH - 1)),
    ],
    ids=repr,
)
def test_a_prefix_is_what_a_trusted_proxy_says(behind: FlaskClient, said: tuple[str, ...], prefix: str) -> None:
    assert location(behind, PROXY, *said) == prefix
    assert location(behind, STRANGER, *said) == ""


@pytest.mark.parametrize(
    "said",
    [
        "wallet", "//evil.example", "/wallet//", "/a//b", "/..", "/a/../b", "/./a", "https://evil.example", "/a b",
        "/a%2fb", '/"><script>', "/a?b", "/a#b", "/a\\b", "/a\tb", "/\xe9", "/" + "a" * MAX_PREFIX_LENGTH, "/a,b",
        "/a:80", "/@evil",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_plain_path_is_no_prefix(behind: FlaskClient, said: str) -> None:
    assert location(behind, PROXY, said) == ""
    document = behind.get("/openapi.json", headers={"X-Forwarded-Prefix": said}, environ_base={"REMOTE_ADDR": PROXY})
    assert answer(document)["servers"] == [{"url": "/"}]


def test_what_is_not_there_is_named_as_it_was_asked_for(behind: FlaskClient) -> None:
    headers = {"X-Forwarded-Prefix": "/wallet"}
    response = behind.get("/nowhere", headers=headers, environ_base={"REMOTE_ADDR": PROXY})
    assert problem(response, "not_found")["detail"] == "There is nothing at /wallet/nowhere."
    assert get(behind, "/healthz", user=None).status_code == 200


def test_a_replay_says_where_its_job_is_now(behind: FlaskClient) -> None:
    job_id = accept(behind, 1, key="k")
    headers = {"Authorization": "1", "Idempotency-Key": "k", "X-Forwarded-Prefix": "/wallet"}
    body = {"destination_user_id": 2, "amount": 1}
    again = behind.post(TRANSFER_LATER, headers=headers, json=body, environ_base={"REMOTE_ADDR": PROXY})
    assert answer(again, 202)["status_url"] == f"/wallet{JOBS}/{job_id}"
    assert post(behind, TRANSFER_LATER, body, key="k").headers["Location"] == f"{JOBS}/{job_id}"
