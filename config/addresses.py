"""Hosts and ports: how they are spelled, and from where they are reached."""

MAX_PORT = 65_535


def address_of(host: str, port: int) -> str:
    """Spell them as one, with an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Return an address at which this machine reaches what listens on the host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def split_address(text: str) -> tuple[str, int]:
    """Read ``host:port``; the host comes without brackets, and may be any text.

    Raises:
        ValueError: it has no port.
    """
    host, _, port = text.rpartition(":")
    if not is_port(port):
        raise ValueError(f"must have a port, from 1 to {MAX_PORT}")
    return (host[1:-1] if host.startswith("[") and host.endswith("]") else host), int(port)


def is_port(text: str) -> bool:
    """Whether it is the number of a port."""
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_PORT
