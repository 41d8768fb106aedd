"""Who is asking: a user by an id or a token, as AUTH_MODE says, an administrator by HTTP Basic."""

import base64
import binascii
import hmac
import importlib
from typing import NoReturn, cast

import structlog
from flask import Flask, current_app, request

from api.access.callers import BadCredentials, Caller, KeysUnavailable, Verifier, find_user_id
from api.access.cross_site import refuse_other_sites
from api.access.limits import limits
from api.edge.errors import RETRY_AFTER_S, ApiError
from api.edge.proxies import client_address
from api.settings import current_settings
from config import Settings

_USER_ID_CHALLENGE = 'UserId realm="wallet"'
_BEARER_CHALLENGE = 'Bearer realm="wallet"'
_ADMIN_CHALLENGE = 'Basic realm="wallet-admin", charset="UTF-8"'
_EXTENSION = "wallet-tokens"


def install(app: Flask, settings: Settings) -> None:
    """Let an application believe what AUTH_MODE says.

    Tokens need PyJWT and cryptography, so what reads them is imported where there are any.
    """
    is_by_token = settings.auth_mode == "jwt"
    app.extensions[_EXTENSION] = (
        importlib.import_module("api.access.tokens").make_verifier(settings) if is_by_token else None
    )


def _tokens() -> Verifier | None:
    """Return what verifies tokens here; None in user-id mode, which has none."""
    return cast("Verifier | None", current_app.extensions[_EXTENSION])


def require_user() -> int:
    """Return the id of the user who asks, and take a token of his bucket.

    Raises:
        ApiError: ``unauthorized``, ``rate_limited``, or ``unavailable`` if nobody can tell.
    """
    return _throttled(_require_caller()).user_id


def identify_user() -> int:
    """Return the id of the user who asks, for a caller who takes the token himself.

    Raises:
        ApiError: ``unauthorized``, or ``unavailable`` if nobody can tell.
    """
    return _require_caller().user_id


def require_depositor() -> int:
    """Return the id of the user who asks and may deposit: with DEPOSIT_SCOPE, by a token with that scope.

    Raises:
        ApiError: ``forbidden`` without the scope; else as :func:`require_user`.
    """
    caller = _throttled(_require_caller())
    scope = current_settings().deposit_scope
    if scope is not None and scope not in caller.scopes:
        # RFC 6750, 3.1
        challenge = f'{_BEARER_CHALLENGE}, error="insufficient_scope", scope="{scope}"'
        raise ApiError("forbidden", f"A deposit needs a token with the scope {scope}.", {"WWW-Authenticate": challenge})
    return caller.user_id


def require_admin() -> None:
    """Let only administrators pass, and change something only for their own page or for no page at all.

    Raises:
        ApiError: ``forbidden`` for a user, and for a request that another site's page has sent; ``unauthorized`` for
            anyone else.
    """
    header = request.environ.get("HTTP_AUTHORIZATION", "")
    if _is_admin(header):
        limits().take("admin")
        refuse_other_sites()
        structlog.contextvars.bind_contextvars(admin=current_settings().admin_user)
        return
    try:
        _authenticate(header)
    except BadCredentials:
        _reject("Administrators sign in by HTTP Basic.", _ADMIN_CHALLENGE)
    raise ApiError("forbidden", "Only administrators may do this.")


def require_user_or_admin() -> int | None:
    """Return the id of the user who asks, None for an administrator. For what changes nothing.

    Raises:
        ApiError: as :func:`require_user`.
    """
    if _is_admin(request.environ.get("HTTP_AUTHORIZATION", "")):
        limits().take("admin")
        return None
    return require_user()


def _throttled(caller: Caller) -> Caller:
    limits().take(str(caller.user_id))
    return caller


def _require_caller() -> Caller:
    header = request.environ.get("HTTP_AUTHORIZATION", "")
    try:
        caller = _authenticate(header)
    except BadCredentials as bad:
        _reject(bad.reason, _user_challenge(header, bad.reason))
    structlog.contextvars.bind_contextvars(user_id=str(caller.user_id))
    return caller


def _authenticate(header: str) -> Caller:
    """Return whom the header names.

    Raises:
        BadCredentials: nobody.
        ApiError: ``unavailable``: the identity provider's keys are needed to tell, and cannot be had.
    """
    tokens = _tokens()
    if tokens is None:
        user_id = find_user_id(header)
        if user_id is None:
            raise BadCredentials("Authorization must be a user id, a positive integer.")
        return Caller(user_id)
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise BadCredentials("Authorization must be a bearer token.")
    try:
        return tokens.verify(token.strip(" "))
    except KeysUnavailable:
        detail = "The identity provider does not answer, so the token cannot be checked. Nothing moved."
        raise ApiError("unavailable", detail, {"Retry-After": str(RETRY_AFTER_S)}) from None


def _user_challenge(header: str, reason: str) -> str:
    """Spell the challenge for users. Who has sent nothing has made no error (RFC 6750, 3.1)."""
    if _tokens() is None:
        return _USER_ID_CHALLENGE
    return f'{_BEARER_CHALLENGE}, error="invalid_token", error_description="{reason}"' if header else _BEARER_CHALLENGE


def _is_admin(header: str) -> bool:
    """Compare in constant time, name and password both, so that neither tells how much of it was right.

    Every password that is tried, of whatever route, is tried here.

    Raises:
        ApiError: ``rate_limited``: too many were, from this address.
    """
    scheme, _, encoded = header.partition(" ")
    password = current_settings().admin_password.get_secret_value()
    if scheme.lower() != "basic" or not password:
        return False
    # Asked before the password is looked at: who guesses must not even be told when he guessed right.
    limits().check_address(client_address())
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, f"{current_settings().admin_user}:{password}".encode())


def _reject(detail: str, challenge: str) -> NoReturn:
    """Refuse. Every authentication that fails, of users and of administrators, ends here.

    Raises:
        ApiError: ``unauthorized``, or ``rate_limited`` when an address goes on and on.
    """
    if "HTTP_AUTHORIZATION" in request.environ:
        limits().count_bad_credentials(client_address())
    raise ApiError("unauthorized", detail, {"WWW-Authenticate": challenge})
