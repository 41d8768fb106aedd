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
