"""What the proxies in front say about a request. Believed only from TRUSTED_PROXIES: anyone can write these headers."""

import ipaddress
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

# More than anyone has in front of one another.
_MAX_HOPS = 16


class Proxies:
    """Those that are trusted. A request is known by its WSGI environment."""

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._trusted = trusted

    def client_address(self, environ: Mapping[str, Any]) -> str:
        """Return the address that the request comes from: the first, from our side, that is no trusted proxy's.

        Each proxy adds the address of whoever has asked it at the right end of X-Forwarded-For. What stands further
        left than the first stranger is that stranger's word. What cannot be read is worth nothing: then it is the
        peer's.
        """
        peer: str = environ.get("REMOTE_ADDR", "")
        if not self._are_in_front(environ):
            return peer
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
        address = None
        for hop in reversed(hops):
            address = _find_address(hop.strip())
            if not self._is_trusted(address):
                break
        return peer if address is None else str(address)

    def public_host(self, environ: Mapping[str, Any]) -> str:
        """Return the host, with its port, that the client has asked: the trusted proxy's X-Forwarded-Host, or Host."""
        forwarded: str = environ.get("HTTP_X_FORWARDED_HOST", "").partition(",")[0].strip()
        return forwarded if forwarded and self._are_in_front(environ) else environ.get("HTTP_HOST", "")

    def is_https(self, environ: Mapping[str, Any]) -> bool:
        """Whether a trusted proxy says that the client speaks HTTPS with it."""
        said: str = environ.get("HTTP_X_FORWARDED_PROTO", "")
        return said.strip().lower() == "https" and self._are_in_front(environ)

    def _are_in_front(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request was handed on by a trusted proxy."""
        return bool(self._trusted) and self._is_trusted(_find_address(environ.get("REMOTE_ADDR", "")))

    def _is_trusted(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _find_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # As a socket that listens for both kinds spells an IPv4 peer.
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
