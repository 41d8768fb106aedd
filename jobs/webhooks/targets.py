"""URLs that events may be sent to, as far as the URL itself tells: the address is looked at when it is used."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from jobs.webhooks.addresses import AddressRefused, Network, choose
from jobs.webhooks.resolving import NotResolved, resolve

MAX_URL = 2048
# RFC 1035, 2.3.4: of each part of a name.
MAX_LABEL = 63
# How long whoever registers a URL waits for its name to be looked up.
LOOK_S = 2.0
_PORTS = {"https": 443, "http": 80}


class Target(NamedTuple):
    """Where a URL leads. ``path``: with the query."""

    is_encrypted: bool
    host: str
    port: int
    path: str


class BadTarget(ValueError):
    """Nothing can be sent to this URL. The message says why, without the URL."""


def parse(url: str) -> Target:
    """Take a URL apart.

    Raises:
        BadTarget: it is none that anything is sent to.
    """
    if len(url) > MAX_URL:
        raise BadTarget(f"must have at most {MAX_URL} characters")
    # What another reader might take apart otherwise.
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadTarget("must be ASCII without blanks, backslashes and control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadTarget("must be a URL like https://example.com/hooks") from None
    if parts.scheme not in _PORTS:
        raise BadTarget("must begin with https://")
    if "@" in parts.netloc:
        raise BadTarget("must have neither user nor password")
    if "#" in url:
        raise BadTarget("must have no fragment")
    if not parts.hostname or port == 0:
        raise BadTarget("must name a host, and a port other than 0")
    if not all(0 < len(label) <= MAX_LABEL for label in parts.hostname.removesuffix(".").split(".")):
        raise BadTarget(f"must name a host, whose parts between dots have 1 to {MAX_LABEL} characters")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", parts.hostname, port or _PORTS[parts.scheme], path)


def check_url(url: str, *, allowed: Sequence[Network]) -> None:
    """Make sure that a URL can be sent to, as far as that is known now. A name that is not known yet may be, later.

    Raises:
        BadTarget: it cannot.
    """
    target = parse(url)
    try:
        choose(resolve(target.host, target.port, within_s=LOOK_S), is_encrypted=target.is_encrypted, allowed=allowed)
    except NotResolved:
        if not target.is_encrypted:
            raise BadTarget("must begin with https://") from None
        if ":" in target.host:
            raise BadTarget("must name a host, or an address without a zone") from None
    except AddressRefused as error:
        raise BadTarget(f"leads where nothing is sent: {error}") from None
