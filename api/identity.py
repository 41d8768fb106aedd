"""Who is asking: a user by the Authorization header, an administrator by HTTP Basic."""

import base64
import binascii
import hmac
import re

import structlog
from flask import request

from api.errors import ApiError
from api.limits import limits
from api.services import services
from models.transfer import MAX_ID

_USER_ID = re.compile(r"[1-9][0-9]{0,18}")
_CHALLENGE = 'UserId realm="wallet"'
_ADMIN_CHALLENGE = 'Basic realm="wallet-admin", charset="UTF-8"'


def require_user() -> int:
    """Return the id of the user who asks, and take a token for it.

    Raises:
        ApiError: ``unauthorized``, ``rate_limited``.
    """
    user_id = identify_user()
    limits().take(str(user_id))
    return user_id


def identify_user() -> int:
    """Return the id of the user who asks, for a caller who takes the token himself.

    Raises:
        ApiError: ``unauthorized``.
    """
    user_id = _user_id_of(request.environ.get("HTTP_AUTHORIZATION", ""))
    if user_id is None:
        raise ApiError(
            "unauthorized", "Authorization must be a user id, a positive integer.", {"WWW-Authenticate": _CHALLENGE}
        )
    structlog.contextvars.bind_contextvars(user_id=str(user_id))
    return user_id


def require_admin() -> None:
    """Let only administrators pass.

    Raises:
        ApiError: ``forbidden`` for a user, ``unauthorized`` for anyone else.
    """
    header = request.environ.get("HTTP_AUTHORIZATION", "")
    if _is_admin(header):
        structlog.contextvars.bind_contextvars(admin=services().settings.admin_user)
        return
    if _user_id_of(header) is not None:
        raise ApiError("forbidden", "Only administrators may do this.")
    raise ApiError("unauthorized", "Administrators sign in by HTTP Basic.", {"WWW-Authenticate": _ADMIN_CHALLENGE})


def require_user_or_admin() -> int | None:
    """Return the id of the user who asks, None for an administrator.

    Raises:
        ApiError: ``unauthorized``.
    """
    return None if _is_admin(request.environ.get("HTTP_AUTHORIZATION", "")) else require_user()


def _user_id_of(header: str) -> int | None:
    if not _USER_ID.fullmatch(header):
        return None
    user_id = int(header)
    return user_id if user_id <= MAX_ID else None


def _is_admin(header: str) -> bool:
    """Compare in constant time, name and password both, so that neither tells how much of it was right."""
    scheme, _, encoded = header.partition(" ")
    settings = services().settings
    password = settings.admin_password.get_secret_value()
    if scheme.lower() != "basic" or not password:
        return False
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, f"{settings.admin_user}:{password}".encode())
