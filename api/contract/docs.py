"""A page to try the API on: Swagger UI as flask-swagger-ui bundles it, with no asset from elsewhere.

Only the bundled files are used. The extension's own page starts itself by an inline script, for which a policy would
have to allow such scripts; ours is started by a file.
"""

from importlib import resources
from mimetypes import guess_type
from pathlib import Path

from flask import Blueprint, Response, abort, request

blueprint = Blueprint("docs", __name__, url_prefix="/docs")

_PAGE = Path(__file__).parent / "page"
_BUNDLED = Path(str(resources.files("flask_swagger_ui"))) / "dist"
_ASSETS = {
    path.name: path
    for path in (
        _PAGE / "start.js",
        _BUNDLED / "swagger-ui.css",
        _BUNDLED / "swagger-ui-bundle.js",
        _BUNDLED / "favicon-32x32.png",
    )
}
_MAX_AGE_S = 3600
# data: are the icons in the style sheet. The page talks to its own origin only, and stands in nobody's frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("")
@blueprint.get("/")
def page() -> Response:
    """Show the page, under both of its names: a redirect would be one more thing to go wrong behind a proxy."""
    # What it refers to is below whatever a proxy in front has taken off the path.
    text = (_PAGE / "index.html").read_bytes().replace(b'="/', f'="{request.root_path}/'.encode())
    # It names no version of its assets, so whoever opens it again asks whether it is still the same.
    response = _answer(text, "text/html", "no-cache")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.get("/<name>")
def asset(name: str) -> Response:
    """Send one of the page's files."""
    if name not in _ASSETS:
        abort(404)
    path = _ASSETS[name]
    return _answer(path.read_bytes(), guess_type(name)[0], f"public, max-age={_MAX_AGE_S}")


def _answer(content: bytes, mimetype: str | None, cache_control: str) -> Response:
    """Send a file's content, or 304 to whoever has it. It is read whole: people ask for it, now and then."""
    response = Response(content, mimetype=mimetype)
    response.headers["Cache-Control"] = cache_control
    response.add_etag()
    response.make_conditional(request)
    return response
