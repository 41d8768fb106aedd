"""Whom a webhook may reach: addresses that are public, and those that the operator has allowed.

Whoever may register a URL could else have this service ask what only it can reach: a database, a cloud's metadata. The
list is our own, since Python's ``is_global`` lets through what leads elsewhere after all: 6to4, NAT64 and Teredo carry
an IPv4 address within them, multicast reaches many, and some blocks are reserved since it was written (RFC 6890 and
IANA's registries of special-purpose addresses).
"""

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by carriers' customers
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local: clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocols
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4's relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
# What IANA has given out. All else is link-local, multicast, NAT64, discard-only, unique local, or nobody's yet.
_GLOBAL_6 = IPv6Network("2000::/3")
_REFUSED_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocols: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


class AddressRefused(Exception):
    """A webhook may not reach this address. The message has no more of it than its receiver's owner knows anyway."""


def read(text: str) -> Address:
    """Read an address as a resolver gives it; one of IPv4 within one of IPv6 is what it stands for.

    Raises:
        ValueError: it is none, or is bound to an interface.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("has a zone")
        return address.ipv4_mapped or address
    return address


def is_public(address: Address) -> bool:
    """Whether everybody reaches the same machine by it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_4) and address.is_global
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    return address in _GLOBAL_6 and not any(address in network for network in _REFUSED_6) and address.is_global


def choose(found: Sequence[Address], *, is_encrypted: bool, allowed: Sequence[Network]) -> list[Address]:
    """Return which of a host's addresses a webhook may connect to: all of them, or none.

    Only of a name that is all loopback (``localhost``, which most know in both families) those that are allowed.

    Args:
        found: what the name leads to.
        is_encrypted: whether TLS is spoken there. In plain text only loopback may be, where it is allowed.
        allowed: networks that need not be public.

    Raises:
        AddressRefused: one of them may not be reached.
    """
    if all(each.is_loopback for each in found):
        chosen = [each for each in found if any(each in network for network in allowed)]
        if not chosen:
            raise AddressRefused("it is a loopback address, and WEBHOOK_ALLOW_NETWORKS does not name it")
        return chosen
    for address in found:
        if not is_encrypted:
            raise AddressRefused("http is for loopback addresses alone")
        if not is_public(address) and not any(address in network for network in allowed):
            raise AddressRefused("the address is not public")
    return list(found)
