"""What a proxy says counts only from TRUSTED_PROXIES, and only up to the first stranger."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask import request
from sqlalchemy import Engine
from structlog.testing import capture_logs

from api.access.limits import PASSWORDS
from api.edge.proxies import Proxies
from config.values import read_networks
from tests.api.conftest import AppMaker
from tests.api.server import Gunicorn, gunicorn

PROXY, INNER, CLIENT, SPOOFED = "10.0.0.1", "10.0.0.2", "198.51.100.7", "203.0.113.9"
TRUSTED = "10.0.0.0/8, fd00::/8"
GUESSES = PASSWORDS.burst


@pytest.fixture
def server(
    tmp_path: Path, engine: Engine, redis_client: redis.Redis, service_database_url: str, redis_url: str
) -> Iterator[Gunicorn]:
    """A server that believes whoever is on this machine."""
    del engine, redis_client  # asked for to be emptied
    settings = {"DATABASE_URL": service_database_url, "REDIS_URL": redis_url, "API_PROCESSES": "1"}
    with gunicorn(
        tmp_path / "api.log", TRUSTED_PROXIES=f"127.0.0.1,{TRUSTED}", ADMIN_PASSWORD="z", **settings
    ) as server:
        yield server


def proxies_of(trusted: str) -> Proxies:
    return Proxies(read_networks(trusted) if trusted else ())


def address_of(make_app: AppMaker, peer: str, forwarded: str | None, *, trusted: str = TRUSTED) -> str:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    app = make_app(trusted_proxies=trusted) if trusted else make_app()
    with app.test_request_context(headers=headers, environ_base={"REMOTE_ADDR": peer}):
        return proxies_of(trusted).client_address(request.environ)


@pytest.mark.parametrize("forwarded", [None, "", SPOOFED, f"{SPOOFED}, {PROXY}", "127.0.0.1", "x"])
def test_a_stranger_is_where_it_is_from_whatever_it_says(make_app: AppMaker, forwarded: str | None) -> None:
    assert address_of(make_app, CLIENT, forwarded) == CLIENT


@pytest.mark.parametrize("peer", [PROXY, "127.0.0.1", "::1", CLIENT])
def test_by_default_nobody_is_believed(make_app: AppMaker, peer: str) -> None:
    assert address_of(make_app, peer, SPOOFED, trusted="") == peer


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (CLIENT, CLIENT),
        (f"{SPOOFED}, {CLIENT}", CLIENT),
        (f"{SPOOFED},{PROXY},{CLIENT}", CLIENT),
        (f"{SPOOFED}, {CLIENT}, {INNER}", CLIENT),
        (f"x, {CLIENT} ,{INNER}", CLIENT),
        (f"{INNER}", INNER),  # a request of their own
        (f"10.0.0.3, {INNER}", "10.0.0.3"),
        ("2001:DB8:0::7", "2001:db8::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT}, fd00::1", CLIENT),
        (", ".join([SPOOFED] * 1_000 + [CLIENT]), CLIENT),
    ],
    ids=lambda value: value[:40],
)
def test_the_first_stranger_from_our_side_is_the_client(make_app: AppMaker, forwarded: str, address: str) -> None:
    for peer in (PROXY, f"::ffff:{PROXY}", "fd00::2"):
        assert address_of(make_app, peer, forwarded) == address


@pytest.mark.parametrize(
    ("written", "address"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}:51234", CLIENT),
        (f" {CLIENT}:51234 , {INNER}:80", CLIENT),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:51234", "2001:db8::7"),
        ('"[2001:db8::7]:51234"', "2001:db8::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"[::ffff:{CLIENT}]:51234", CLIENT),
        ("fe80::7%eth0", "fe80::7%eth0"),
        (f"{CLIENT}, [fd00::1]:443", CLIENT),
    ],
)
def test_an_address_is_read_as_proxies_write_it(make_app: AppMaker, written: str, address: str) -> None:
    assert address_of(make_app, PROXY, written) == address
    assert address_of(make_app, PROXY, f"{SPOOFED}, {written}") == address


UNREADABLE = [
    None, "", " ", ",", "unknown", "_hidden", "_hidden:80", "unix:", "x", f"{CLIENT},", f", {CLIENT},",
    f"{CLIENT}, x, {INNER}", "1", "10.0.0", "[::1", "::1]", "[::1]x", "[]", f"[{CLIENT}", f"{CLIENT}:80:90",
    f"{CLIENT} {SPOOFED}", f"{CLIENT};{SPOOFED}", "01.2.3.4", "\xb2",
]  # fmt: skip


@pytest.mark.parametrize("forwarded", UNREADABLE)
def test_what_cannot_be_read_is_the_peer(make_app: AppMaker, forwarded: str | None) -> None:
    assert address_of(make_app, PROXY, forwarded) == PROXY


def environ_of(headers: dict[str, str]) -> dict[str, str]:
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}


def client_of(**headers: str) -> str:
    return proxies_of(TRUSTED).client_address(environ_of(headers) | {"REMOTE_ADDR": PROXY})


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (f"for={CLIENT}", CLIENT),
        (f'For="{CLIENT}:51234"', CLIENT),
        (f"for={CLIENT}:51234;proto=https", CLIENT),  # it should be quoted, and often is not
        ('for="[2001:db8::7]:51234";by=10.0.0.1', "2001:db8::7"),
        (f"proto=https ; for={CLIENT};;host=x;", CLIENT),
        (f"for={SPOOFED}, for={CLIENT}, for={INNER};by={PROXY}", CLIENT),
        (f'for={SPOOFED};x="a, for={SPOOFED}", for={CLIENT}', CLIENT),
        (f'for={SPOOFED};x="\\"", for={CLIENT}', CLIENT),
        ('for="\\1\\98.51.100.7"', CLIENT),
        *(
            (text, PROXY)
            for text in (
                "", "for", "for=", "for=unknown", "for=_hidden", "proto=https", f"for={CLIENT},", f"for= {CLIENT}",
                f"for={CLIENT}, for=unknown", f'for="{CLIENT}', f"for={CLIENT};for={SPOOFED}", f"for={CLIENT} x",
                f'for={CLIENT}, x="',
                # A quote that does not end must not hide what the proxy has written behind it.
                f'for={SPOOFED};x=", for="[2001:db8::7]"', f'for={SPOOFED};x=", for={CLIENT}', f"x, for={CLIENT}",
            )
        ),
    ],
)  # fmt: skip
def test_forwarded_is_read_as_well(forwarded: str, address: str) -> None:
    assert client_of(forwarded=forwarded) == address


def test_of_two_headers_that_differ_neither_is_believed() -> None:
    assert client_of(forwarded=f"for={CLIENT}", x_forwarded_for=f"{SPOOFED}, {CLIENT}:80") == CLIENT
    for forwarded in (f"for={SPOOFED}", "for=unknown", "x"):
        assert client_of(forwarded=forwarded, x_forwarded_for=CLIENT) == PROXY
        assert client_of(forwarded=f"for={CLIENT}", x_forwarded_for="unknown") == PROXY


def test_several_headers_of_a_name_are_one_list(server: Gunicorn) -> None:
    """As servers join them; and each client has its own bucket, whoever shares the proxy with it."""
    for address in (CLIENT, SPOOFED):
        request = (
            "GET /api/dead-letters/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic eDp5\r\n"
            f"X-Forwarded-For: {INNER}\r\nX-Forwarded-For: {address}:80\r\nX-Forwarded-For: {INNER}\r\n\r\n"
        )
        answers = [server.send_raw(request.encode()) for _ in range(GUESSES + 1)]
        assert [int(each.split()[1]) for each in answers] == [401] * GUESSES + [429]


@pytest.mark.parametrize(
    ("peer", "headers", "line"),
    [
        (CLIENT, {"X-Forwarded-For": SPOOFED}, "TRUSTED_PROXIES does not name it"),
        (CLIENT, {"Forwarded": f"for={SPOOFED}"}, "TRUSTED_PROXIES does not name it"),
        (PROXY, {"X-Forwarded-For": "unknown"}, "in a way that can be read"),
        (PROXY, {"X-Forwarded-For": CLIENT, "Forwarded": "for=unknown"}, "in a way that can be read"),
        (PROXY, {}, "in a way that can be read"),
        (PROXY, {"X-Forwarded-For": f"{CLIENT}:80"}, None),
        (CLIENT, {}, None),
    ],
)
def test_one_limit_for_many_is_told_once(peer: str, headers: dict[str, str], line: str | None) -> None:
    proxies = proxies_of(TRUSTED)
    with capture_logs() as lines:
        for _ in range(3):
            proxies.client_address(environ_of(headers) | {"REMOTE_ADDR": peer})
    assert [(each["log_level"], each["peer"], line and line in each["event"]) for each in lines] == (
        [("warning", peer, True)] if line else []
    )


def test_a_client_on_a_socket_without_addresses_has_none(make_app: AppMaker) -> None:
    assert address_of(make_app, "", CLIENT) == ""


@pytest.mark.parametrize(
    ("peer", "headers", "host"),
    [
        (PROXY, {"X-Forwarded-Host": "wallet.example"}, "wallet.example"),
        (PROXY, {"X-Forwarded-Host": "wallet.example:8443, inner"}, "wallet.example:8443"),
        (PROXY, {}, "inner:8080"),
        (PROXY, {"X-Forwarded-Host": ""}, "inner:8080"),
        (PROXY, {"Forwarded": f'for={CLIENT};host="wallet.example:8443"'}, "wallet.example:8443"),
        (
            PROXY,
            {"Forwarded": f"for={SPOOFED};host=evil, for={CLIENT};host=wallet.example, for={INNER};host=x"},
            "wallet.example",
        ),
        (PROXY, {"Forwarded": f"for={INNER};host=wallet.example, for={PROXY};host=x"}, "wallet.example"),
        (PROXY, {"Forwarded": "host=wallet.example", "X-Forwarded-Host": "other.example"}, "other.example"),
        (PROXY, {"Forwarded": f"for={CLIENT}"}, "inner:8080"),
        (PROXY, {"Forwarded": "x"}, "inner:8080"),
        (CLIENT, {"Forwarded": "host=evil.example"}, "inner:8080"),
        (CLIENT, {"X-Forwarded-Host": "evil.example"}, "inner:8080"),
    ],
)
def test_the_host_is_the_one_that_the_client_has_asked(
    make_app: AppMaker, peer: str, headers: dict[str, str], host: str
) -> None:
    app = make_app(trusted_proxies=TRUSTED)
    environ = {"REMOTE_ADDR": peer}
    with app.test_request_context(base_url="http://inner:8080", headers=headers, environ_base=environ):
        assert proxies_of(TRUSTED).public_host(request.environ) == host


@pytest.mark.parametrize(
    ("peer", "headers", "secure"),
    [
        (PROXY, {"X-Forwarded-Proto": "https"}, True),
        (PROXY, {"X-Forwarded-Proto": "HTTPS"}, True),
        (PROXY, {"X-Forwarded-Proto": "https, http"}, True),
        (PROXY, {"X-Forwarded-Proto": "http, https"}, False),
        (PROXY, {"X-Forwarded-Proto": "http"}, False),
        (PROXY, {"X-Forwarded-Proto": ""}, False),
        (PROXY, {"Forwarded": f"for={CLIENT};proto=https"}, True),
        (PROXY, {"Forwarded": f"for={SPOOFED};proto=https, for={CLIENT};proto=http"}, False),
        (PROXY, {"Forwarded": f"for={CLIENT};proto=https", "X-Forwarded-Proto": "http"}, False),
        (CLIENT, {"X-Forwarded-Proto": "https"}, False),
        (CLIENT, {"Forwarded": "proto=https"}, False),
    ],
)
def test_https_is_what_a_trusted_proxy_calls_so(
    make_app: AppMaker, peer: str, headers: dict[str, str], *, secure: bool
) -> None:
    assert proxies_of(TRUSTED).is_https(environ_of(headers) | {"REMOTE_ADDR": peer}) is secure
    client = make_app(trusted_proxies=TRUSTED).test_client()
    response = client.get("/healthz", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert ("Strict-Transport-Security" in response.headers) is secure
