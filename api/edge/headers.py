"""What every response says to browsers and to caches on the way."""

from flask import Flask, Response

from api.edge.proxies import is_https
from config import Settings

# A page that needs more (its own scripts, say) brings its own value, which then stands.
DEFAULTS = (
    # Balances stay out of every cache.
    ("Cache-Control", "no-store"),
    # Nothing here is a page: nothing in it is to be run, shown, or shown within something else.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
_HSTS = "max-age=31536000"


def install(app: Flask, settings: Settings) -> None:
    """Add what depends on the request; the defaults are added by :class:`api.edge.edge.Edge`."""
    # Only a proxy can speak HTTPS here, so without one nobody needs to look.
    if settings.trusted_proxies:
        app.after_request(_add_hsts)


def _add_hsts(response: Response) -> Response:
    """Let browsers come by HTTPS only, once they have come by HTTPS."""
    if is_https():
        response.headers["Strict-Transport-Security"] = _HSTS
    return response
