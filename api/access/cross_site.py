"""Requests that another site's page has sent with a browser's help.

A browser adds the password that an administrator has once typed to whatever a page sends to us, wherever that page is
from. Only what browsers say about the page, and no page can change, tells such requests apart.
"""

from collections.abc import Mapping
from typing import Any

from api.calls.problems import ApiError
from api.edge.proxies import Proxies

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# "none": typed, or a bookmark. "same-site" is another site: another port or subdomain, with other people's pages.
_OUR_OWN = frozenset({"same-origin", "none"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def refuse_other_sites(environ: Mapping[str, Any], proxies: Proxies) -> None:
    """Refuse a request that changes something and comes from a page that is not ours.

    What is no browser (curl) sends neither header and passes.

    Raises:
        ApiError: ``forbidden``.
    """
    if environ["REQUEST_METHOD"] in _SAFE_METHODS or _is_from_here(environ, proxies):
        return
    raise ApiError("forbidden", "Another site's page may not do this in an administrator's name.")


def _is_from_here(environ: Mapping[str, Any], proxies: Proxies) -> bool:
    """Sec-Fetch-Site is the browser's own judgement; over plain HTTP, and by old browsers, only Origin is sent."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site in _OUR_OWN
    origin = environ.get("HTTP_ORIGIN")
    return origin is None or _is_origin_of(origin, proxies.public_host(environ))


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether the pages of an origin are this host's. Scheme aside: behind a proxy it need not be ours."""
    scheme, _, authority = origin.partition("://")
    default_port = _DEFAULT_PORTS.get(scheme)
    return default_port is not None and authority.lower() == host.lower().removesuffix(default_port)
