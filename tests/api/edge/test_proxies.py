"""What a proxy says counts only from TRUSTED_PROXIES, and only up to the first stranger."""

import pytest
from flask import request

from api.edge.proxies import Proxies
from config.values import read_networks
from tests.api.conftest import AppMaker

PROXY, INNER, CLIENT, SPOOFED = "10.0.0.1", "10.0.0.2", "198.51.100.7", "203.0.113.9"
TRUSTED = "10.0.0.0/8, fd00::/8"


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
    "forwarded",
    [
        None,
        "",
        "unknown",
        "x",
        CLIENT + ":80",
        f"{CLIENT},",
        f"{CLIENT}, x, {INNER}",
        "[::1]",
        "1",
        "10.0.0",
        "_hidden",
    ],
)
def test_what_cannot_be_read_is_the_peer(make_app: AppMaker, forwarded: str | None) -> None:
    assert address_of(make_app, PROXY, forwarded) == PROXY


def test_a_client_on_a_socket_without_addresses_has_none(make_app: AppMaker) -> None:
    assert address_of(make_app, "", CLIENT) == ""


@pytest.mark.parametrize(
    ("peer", "headers", "host"),
    [
        (PROXY, {"X-Forwarded-Host": "wallet.example"}, "wallet.example"),
        (PROXY, {"X-Forwarded-Host": "wallet.example:8443, inner"}, "wallet.example:8443"),
        (PROXY, {}, "inner:8080"),
        (PROXY, {"X-Forwarded-Host": ""}, "inner:8080"),
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
    ("peer", "said", "secure"),
    [
        (PROXY, "https", True),
        (PROXY, "HTTPS", True),
        (PROXY, "http", False),
        (PROXY, "", False),
        (CLIENT, "https", False),
    ],
)
def test_https_is_what_a_trusted_proxy_calls_so(make_app: AppMaker, peer: str, said: str, *, secure: bool) -> None:
    app = make_app(trusted_proxies=TRUSTED)
    with app.test_request_context(headers={"X-Forwarded-Proto": said}, environ_base={"REMOTE_ADDR": peer}):
        assert proxies_of(TRUSTED).is_https(request.environ) is secure
    response = app.test_client().get(
        "/healthz", headers={"X-Forwarded-Proto": said}, environ_base={"REMOTE_ADDR": peer}
    )
    assert ("Strict-Transport-Security" in response.headers) is secure
