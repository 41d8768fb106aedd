"""Who is asking: a user by an id or a token, as AUTH_MODE says, an administrator by HTTP Basic."""

import base64
import binascii
import hmac
import importlib
from typing import NoReturn

from api.access.callers import BadCredentials, Caller, KeysUnavailable, Verifier, find_user_id
from api.access.limits import Limits
from api.calls.call import Call
from api.calls.problems import RETRY_AFTER_S, ApiError
from config import Settings
from observe import logs

_USER_ID_CHALLENGE = 'UserId realm="wallet"'
_BEARER_CHALLENGE = 'Bearer realm="wallet"'
_ADMIN_CHALLENGE = 'Basic realm="wallet-admin", charset="UTF-8"'


class Identity:
    """Believes what AUTH_MODE says, and takes a token of everybody's bucket."""

    def __init__(self, settings: Settings, tokens: Verifier | None, limits: Limits) -> None:
        """``tokens`` verifies bearer tokens; None in user-id mode, which has none."""
        self._tokens = tokens
        self._limits = limits
        self._deposit_scope = settings.deposit_scope
        self._admin_user = settings.admin_user
        self._admin_password = settings.admin_password.get_secret_value()

    def prefetch(self) -> None:
        """Have the identity provider's keys before the first call, if there is one and it answers."""
        if self._tokens is not None:
            self._tokens.prefetch()

    def require_user(self, call: Call) -> int:
        """Return the id of the user who asks, and take a token of his bucket.

        Raises:
            ApiError: ``unauthorized``, ``rate_limited``, or ``unavailable`` if nobody can tell.
        """
        return self._require_throttled(call).user_id

    def identify_user(self, call: Call) -> int:
        """Return the id of the user who asks, for a caller who takes the token himself.

        Raises:
            ApiError: ``unauthorized``, or ``unavailable`` if nobody can tell.
        """
        return self._require_caller(call).user_id

    def require_depositor(self, call: Call) -> int:
        """Return the id of the user who asks and may deposit: with DEPOSIT_SCOPE, by a token with that scope.

        Raises:
            ApiError: ``forbidden`` without the scope; else as :meth:`require_user`.
        """
        caller = self._require_throttled(call)
        scope = self._deposit_scope
        if scope is not None and scope not in caller.scopes:
            # RFC 6750, 3.1
            challenge = f'{_BEARER_CHALLENGE}, error="insufficient_scope", scope="{scope}"'
            detail = f"A deposit needs a token with the scope {scope}."
            raise ApiError("forbidden", detail, {"WWW-Authenticate": challenge})
        return caller.user_id

    def require_admin(self, call: Call) -> None:
        """Let only administrators pass.

        Raises:
            ApiError: ``forbidden`` for a user; ``unauthorized`` for anyone else.
        """
        header = call.authorization or ""
        if self._is_admin(call, header):
            self._limits.take(call, "admin")
            logs.bind(admin=self._admin_user)
            return
        try:
            self._authenticate(header)
        except BadCredentials:
            self._reject(call, "Administrators sign in by HTTP Basic.", _ADMIN_CHALLENGE)
        raise ApiError("forbidden", "Only administrators may do this.")

    def require_user_or_admin(self, call: Call) -> int | None:
        """Return the id of the user who asks, None for an administrator.

        A browser may send an administrator's password for another site's page: what changes something asks
        :func:`api.access.administrators.require_user_or_admin`.

        Raises:
            ApiError: as :meth:`require_user`.
        """
        if self._is_admin(call, call.authorization or ""):
            self._limits.take(call, "admin")
            logs.bind(admin=self._admin_user)
            return None
        return self.require_user(call)

    def _require_throttled(self, call: Call) -> Caller:
        caller = self._require_caller(call)
        self._limits.take(call, str(caller.user_id))
        return caller

    def _require_caller(self, call: Call) -> Caller:
        header = call.authorization or ""
        try:
            caller = self._authenticate(header)
        except BadCredentials as bad:
            self._reject(call, bad.reason, self._user_challenge(header, bad.reason))
        logs.bind(user_id=str(caller.user_id))
        return caller

    def _authenticate(self, header: str) -> Caller:
        """Return whom the header names.

        Raises:
            BadCredentials: nobody.
            ApiError: ``unavailable``: the identity provider's keys are needed to tell, and cannot be had.
        """
        if self._tokens is None:
            user_id = find_user_id(header)
            if user_id is None:
                raise BadCredentials("Authorization must be a user id, a positive integer.")
            return Caller(user_id)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise BadCredentials("Authorization must be a bearer token.")
        try:
            return self._tokens.verify(token.strip(" "))
        except KeysUnavailable:
            detail = "The identity provider does not answer, so the token cannot be checked. Nothing moved."
            raise ApiError("unavailable", detail, {"Retry-After": str(RETRY_AFTER_S)}) from None

    def _user_challenge(self, header: str, reason: str) -> str:
        """Spell the challenge for users. Who has sent nothing has made no error (RFC 6750, 3.1)."""
        if self._tokens is None:
            return _USER_ID_CHALLENGE
        described = f'{_BEARER_CHALLENGE}, error="invalid_token", error_description="{reason}"'
        return described if header else _BEARER_CHALLENGE

    def _is_admin(self, call: Call, header: str) -> bool:
        """Compare in constant time, name and password both, so that neither tells how much of it was right.

        Every password that is tried, of whatever route, is tried here.

        Raises:
            ApiError: ``unauthorized``: it is wrong; ``rate_limited``: too many were, from this address.
        """
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic" or not self._admin_password:
            return False
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            given = b""
        is_right = hmac.compare_digest(given, f"{self._admin_user}:{self._admin_password}".encode())
        self._limits.count_password(call, is_right=is_right)
        if not is_right:
            raise ApiError("unauthorized", "Name or password is wrong.", {"WWW-Authenticate": _ADMIN_CHALLENGE})
        return True

    def _reject(self, call: Call, detail: str, challenge: str) -> NoReturn:
        """Refuse whoever shows no credentials of a user, or bad ones. All of these end here.

        Raises:
            ApiError: ``unauthorized``, or ``rate_limited`` when an address goes on and on.
        """
        if call.authorization is not None:
            self._limits.count_bad_credentials(call)
        raise ApiError("unauthorized", detail, {"WWW-Authenticate": challenge})


def make_identity(settings: Settings, limits: Limits) -> Identity:
    """Believe what AUTH_MODE says.

    Tokens need PyJWT and cryptography, so what reads them is imported where there are any.
    """
    is_by_token = settings.auth_mode == "jwt"
    tokens = importlib.import_module("api.access.tokens").make_verifier(settings) if is_by_token else None
    return Identity(settings, tokens, limits)
