"""What the value of a setting must look like. Each check says what is wrong, and never the value."""

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator

# RFC 7518, 3.2: an HMAC's key has at least the size of its hash.
MIN_JWT_SECRET_BYTES = 32
# What begins like this is a public or private key, which is no secret to sign with (or one that verifies nothing).
_ASYMMETRIC_KEYS = ("-----BEGIN ", "ssh-", "ecdsa-")
MAX_TRUSTED_PROXIES = 64
MAX_CORS_ORIGINS = 64
# What a browser sends as Origin, letter for letter: lower case, no default port, no path.
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")

_RATE = re.compile(r"([0-9]{1,9})/(second|minute|hour)(?:;burst=([0-9]{1,9}))?")
_PERIOD_S = {"second": 1, "minute": 60, "hour": 3600}


class Rate(NamedTuple):
    """So many requests in so many seconds, and so many at once."""

    amount: int
    period_s: int
    burst: int


def check_host(text: str) -> str:
    """Make sure that it can be the name or the address of a machine.

    Raises:
        ValueError: it cannot.
    """
    if _HOST.fullmatch(text) is None:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise ValueError("must be the name of a machine, or its address") from None
    return text


def check_word(text: str) -> str:
    """Make sure that it is what somebody else will say, letter for letter.

    Raises:
        ValueError: nobody sees the blanks at its ends.
    """
    if text != text.strip():
        raise ValueError("must not begin or end with a blank")
    return text


def check_user_name(text: str) -> str:
    """Make sure that somebody can log in by this name (RFC 7617, 2).

    Raises:
        ValueError: nobody can.
    """
    if ":" in text:
        raise ValueError("must have no colon")
    return check_word(text)


def read_port_or_off(text: object) -> object:
    """Read what may be ``off``: None."""
    return None if text == "off" else text


Host = Annotated[str, AfterValidator(check_host)]
Word = Annotated[str, AfterValidator(check_word)]
UserName = Annotated[str, AfterValidator(check_user_name)]


def read_rate(text: str) -> Rate | None:
    """Read a rate; None is no limit.

    Raises:
        ValueError: it is not spelled like one.
    """
    if text == "off":
        return None
    found = _RATE.fullmatch(text)
    amount, period, burst = found.groups() if found else ("0", "second", None)
    if int(amount) < 1 or int(burst or amount) < 1:
        raise ValueError("must be off, or like 100/second;burst=200, with at least 1 a second, minute or hour")
    return Rate(int(amount), _PERIOD_S[period], int(burst or amount))


def read_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read addresses and networks with commas between.

    Raises:
        ValueError: one of them is none, or they are too many.
    """
    try:
        networks = tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("must be addresses or networks (10.0.0.0/8) with commas between") from None
    if len(networks) > MAX_TRUSTED_PROXIES:
        raise ValueError(f"must be at most {MAX_TRUSTED_PROXIES} addresses or networks")
    return networks


def check_jwt_secret(secret: str) -> None:
    """Make sure that nobody can guess it, or knows it anyway.

    Raises:
        ValueError: it is too short, or a key of another kind.
    """
    if len(secret.encode()) < MIN_JWT_SECRET_BYTES:
        raise ValueError(f"must have at least {MIN_JWT_SECRET_BYTES} bytes")
    if secret.startswith(_ASYMMETRIC_KEYS):
        raise ValueError("must be a random secret; public keys come by JWT_JWKS_URL")


def check_origins(origins: tuple[str, ...]) -> None:
    """Make sure that a browser would spell them so.

    Raises:
        ValueError: it would not, or they are too many.
    """
    if len(origins) > MAX_CORS_ORIGINS or not all(_is_origin(each) for each in origins):
        example = "https://app.example.org,http://localhost:3000"
        raise ValueError(f"must be at most {MAX_CORS_ORIGINS} origins, spelled as browsers do: {example}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe_to_fetch_keys_from(url: str) -> bool:
    """Whether nobody on the way can put keys of their own in place of those at the URL."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _is_origin(text: str) -> bool:
    default_port = ":443" if text.startswith("https:") else ":80"
    return _ORIGIN.fullmatch(text) is not None and not text.endswith(default_port)
