"""What the proxies in front say about a request. Believed only from TRUSTED_PROXIES: anyone can write these headers."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

import structlog

from api.edge import forwarded

_Address: TypeAlias = IPv4Address | IPv6Address

# More than anyone has in front of one another.
_MAX_HOPS = 16
MAX_PREFIX_LENGTH = 128
# Segments that mean nothing but themselves, in a path, in HTML and in a header.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")
# 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80; RFC 7239 has words for ports as well.
_NODE = re.compile(r"\[([^\[\]]*)\](?::[\w.-]+)?|([^:\[\]]*):[\w.-]+|([^\[\]]*)")
_NOT_TRUSTED = "a proxy is not believed, since TRUSTED_PROXIES does not name it: its clients share one limit on guesses"
_NOT_READ = "a trusted proxy does not say in a way that can be read who asks: such clients share one limit on guesses"
_NO_PREFIX = "an X-Forwarded-Prefix is not used: it is no path of plain segments, like /wallet"

_log = structlog.get_logger("proxies")


class Proxies:
    """Those that are trusted. A request is known by its WSGI environment."""

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._trusted = trusted
        self._told: set[str] = set()

    def client_address(self, environ: Mapping[str, Any]) -> str:
        """Return the address that the request comes from: the first, from our side, that is no trusted proxy's.

        Each proxy adds the address of whoever has asked it at the right end of X-Forwarded-For or Forwarded. What
        stands further left than the first stranger is that stranger's word. Of the two headers a proxy knows one and
        hands on the other, as the client has written it: where they differ, neither is believed. What cannot be read is
        worth nothing: then it is the peer's, and the log says so, once.
        """
        peer: str = environ.get("REMOTE_ADDR", "")
        lists, hops = environ.get("HTTP_X_FORWARDED_FOR"), environ.get("HTTP_FORWARDED")
        if not self._are_in_front(environ):
            if lists is not None or hops is not None:
                self._tell_once(_NOT_TRUSTED, peer)
            return peer
        clients = set()
        if lists is not None:
            clients.add(self._find_client(lists.rsplit(",", _MAX_HOPS)))
        if hops is not None:
            clients.add(self._find_client([hop.get("for", "") for hop in forwarded.read(hops)]))
        client = clients.pop() if len(clients) == 1 else None
        if client is None:
            self._tell_once(_NOT_READ, peer)
            return peer
        return str(client)

    def public_host(self, environ: Mapping[str, Any]) -> str:
        """Return the host, with its port, that the client has asked: what a trusted proxy says it was, or Host."""
        return self._said(environ, "HTTP_X_FORWARDED_HOST", "host") or environ.get("HTTP_HOST", "")

    def is_https(self, environ: Mapping[str, Any]) -> bool:
        """Whether a trusted proxy says that the client speaks HTTPS with it."""
        return self._said(environ, "HTTP_X_FORWARDED_PROTO", "proto").lower() == "https"

    def prefix(self, environ: Mapping[str, Any]) -> str:
        """Return what a trusted proxy has taken off the beginning of the path, like ``/wallet``; mostly nothing.

        Proxies in a row have each taken a part, the outermost the first.
        """
        said: str = environ.get("HTTP_X_FORWARDED_PREFIX", "")
        if not said:
            return ""
        peer = environ.get("REMOTE_ADDR", "")
        if not self._are_in_front(environ):
            self._tell_once(_NOT_TRUSTED, peer)
            return ""
        parts = [part.strip().removesuffix("/") for part in said.split(",")]
        prefix = "".join(parts)
        if len(prefix) <= MAX_PREFIX_LENGTH and all(map(_PREFIX.fullmatch, parts)):
            return prefix
        self._tell_once(_NO_PREFIX, peer)
        return ""

    def _said(self, environ: Mapping[str, Any], header: str, name: str) -> str:
        """Return what the outermost trusted proxy says of its client's request.

        Args:
            environ: of the request.
            header: where it says so.
            name: where it says so in Forwarded, if it has not used the header.
        """
        if not self._trusted or not (
            (header in environ or "HTTP_FORWARDED" in environ) and self._are_in_front(environ)
        ):
            return ""
        if header in environ:
            value: str = environ[header]
            return value.partition(",")[0].strip()
        hop: forwarded.Hop = {}
        for hop in reversed(forwarded.read(environ["HTTP_FORWARDED"])[-_MAX_HOPS:]):
            if not self._is_trusted(_find_address(hop.get("for", ""))):
                break
        return hop.get(name, "")

    def _find_client(self, hops: Sequence[str]) -> _Address | None:
        address = None
        for hop in reversed(hops[-_MAX_HOPS:]):
            address = _find_address(hop)
            if not self._is_trusted(address):
                break
        return address

    def _are_in_front(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request was handed on by a trusted proxy."""
        return bool(self._trusted) and self._is_trusted(_find_address(environ.get("REMOTE_ADDR", "")))

    def _is_trusted(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def _tell_once(self, what: str, peer: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning(what, peer=peer)


def _find_address(text: str) -> _Address | None:
    """Read an address as proxies write it; None: a word (``unknown``, ``_hidden``), or nothing that is one."""
    node = _NODE.fullmatch(text.strip(' \t"'))
    if node is None:
        return None
    try:
        address = ipaddress.ip_address(next(part for part in node.groups() if part is not None))
    except ValueError:
        return None
    # As a socket that listens for both kinds spells an IPv4 peer.
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
