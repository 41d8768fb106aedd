"""What gunicorn takes for a request and we do not: what another reader of HTTP could take for a different one.

A proxy in front, gunicorn and the application read the same bytes. Whatever one of them reads otherwise is a way past
the others, and is refused (RFC 9112, 11.2).
"""

import re
from typing import Any

from gunicorn.http.errors import ParseException

# Said twice, each has two meanings, of which a list between commas would be a third: another key, another caller.
# gunicorn sees to Host, Content-Type and Content-Length. An X-Request-ID or traceparent that is given twice is none,
# and one is made up.
ONCE = frozenset({"AUTHORIZATION", "IDEMPOTENCY-KEY", "TRANSFER-ENCODING"})
# RFC 9112, 3.2: a name or an address, and a port. Empty where the target has none.
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


class UnreadableError(ParseException):
    """A request that cannot be read, and what is said of it."""

    detail = "The request cannot be read as HTTP."

    def __str__(self) -> str:
        return self.detail


class TooSlowError(UnreadableError):
    """The rest of a request did not come in time."""

    detail = "The request came too slowly."


class RepeatedHeaderError(UnreadableError):
    """A header that can be said once was said twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.detail = f"{name.title()} must be sent once."


def check(request: Any) -> None:
    """Refuse a request that can be read in two ways, and let the connection of one that asks for it be closed.

    Args:
        request: gunicorn's, its head read and its body not.

    Raises:
        UnreadableError: it can.
    """
    headers = dict(request.headers)
    if is_repeating := len(headers) < len(request.headers):
        names = [name for name, _ in request.headers]
        if repeated := next((name for name in ONCE if names.count(name) > 1), None):
            raise RepeatedHeaderError(repeated)
    # gunicorn takes codings that it does not undo; nobody knows what HTTP/1.9 is; and where a target has a fragment,
    # some compare the path with it, and some without.
    if (
        ("TRANSFER-ENCODING" in headers and headers["TRANSFER-ENCODING"].lower() != "chunked")
        or request.version > (1, 1)
        or "#" in request.uri
        or not _has_host(headers.get("HOST"), request.version)
    ):
        raise UnreadableError
    # Of a list gunicorn sees nothing, and of several of these headers the first.
    if (is_repeating or "," in headers.get("CONNECTION", "")) and "close" in _options(request.headers):
        request.force_close()


def _has_host(host: str | None, version: tuple[int, int]) -> bool:
    """Whether it says well enough whom it is for: RFC 9112, 3.2."""
    return version < (1, 1) if host is None else _HOST.fullmatch(host) is not None


def _options(headers: list[tuple[str, str]]) -> set[str]:
    said = ",".join(value for name, value in headers if name == "CONNECTION")
    return {option.strip(" \t").lower() for option in said.split(",")}
