"""Administrators who come by HTTP: with the password of HTTP Basic, and from no other site's page."""

from typing import cast

from flask import Flask, current_app, request

from api.access.cross_site import refuse_other_sites
from api.access.identity import Identity
from api.edge.edge import call_of
from api.edge.proxies import Proxies
from config import Settings

_EXTENSION = "wallet-administrators"


def install(app: Flask, settings: Settings, identity: Identity) -> None:
    """Let an application's views ask for an administrator."""
    app.extensions[_EXTENSION] = (identity, Proxies(settings.trusted_proxies))


def require_admin() -> None:
    """Let Flask's request pass if an administrator sends it, and if it changes something, no other site's page does.

    Raises:
        ApiError: as :meth:`api.access.identity.Identity.require_admin`; ``forbidden`` for another site's page.
    """
    identity, proxies = cast("tuple[Identity, Proxies]", current_app.extensions[_EXTENSION])
    identity.require_admin(call_of(request.environ))
    refuse_other_sites(request.environ, proxies)


def require_user_or_admin() -> int | None:
    """Return the id of the user whose request Flask has, None for an administrator's.

    Raises:
        ApiError: as :meth:`api.access.identity.Identity.require_user`; ``forbidden`` as :func:`require_admin`.
    """
    identity, proxies = cast("tuple[Identity, Proxies]", current_app.extensions[_EXTENSION])
    caller = identity.require_user_or_admin(call_of(request.environ))
    if caller is None:
        refuse_other_sites(request.environ, proxies)
    return caller
