"""What the proxies in front say about a request. Believed only from TRUSTED_PROXIES: anyone can write these headers."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

from flask import request

from api.settings import current_settings

# More than anyone has in front of one another.
_MAX_HOPS = 16


def client_address() -> str:
    """Return the address that the request comes from: the first, from our side, that is no trusted proxy's.

    Each proxy adds the address of whoever has asked it at the right end of X-Forwarded-For. What stands further left
    than the first stranger is that stranger's word. What cannot be read is worth nothing: then it is the peer's.
    """
    peer = request.remote_addr or ""
    if not _is_trusted(_find_address(peer)):
        return peer
    hops = request.headers.get("X-Forwarded-For", "").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    address = None
    for hop in reversed(hops):
        address = _find_address(hop.strip())
        if not _is_trusted(address):
            break
    return peer if address is None else str(address)


def public_host() -> str:
    """Return the host, with its port, that the client has asked: the trusted proxy's X-Forwarded-Host, or Host."""
    forwarded = request.headers.get("X-Forwarded-Host", "").partition(",")[0].strip()
    return forwarded if forwarded and is_behind_proxy() else request.headers.get("Host", "")


def is_https() -> bool:
    """Whether a trusted proxy says that the client speaks HTTPS with it."""
    return request.headers.get("X-Forwarded-Proto", "").strip().lower() == "https" and is_behind_proxy()


def is_behind_proxy() -> bool:
    """Whether the request was handed on by a trusted proxy."""
    return _is_trusted(_find_address(request.remote_addr or ""))


def _is_trusted(address: IPv4Address | IPv6Address | None) -> bool:
    return address is not None and any(address in network for network in current_settings().trusted_proxies)


def _find_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # As a socket that listens for both kinds spells an IPv4 peer.
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
