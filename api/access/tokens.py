"""Bearer tokens: JSON Web Tokens that say who somebody is. Knows nothing of HTTP.

The algorithms are ours and never the token's (RFC 8725, 3.1): a secret verifies HS256 alone, an identity provider's
public keys only what is made for public keys. So neither ``alg: none`` nor a public key used as a secret gets anywhere.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from jwt.types import Options

from api.access.callers import BadCredentials, Caller, find_user_id
from api.access.provider_keys import ProviderKeys, UnknownKey
from config import Settings
from models.ledger.transfer import MAX_ID

# For clocks that do not quite agree.
LEEWAY_S = 5
# Verifying costs 90 µs (HS256) to 200 µs (ES256), so what was verified is remembered: a few hundred bytes for each.
MAX_REMEMBERED = 4_096
_OPTIONS: Options = {"require": ["exp", "sub"], "enforce_minimum_key_length": True, "verify_sub": False}
_EXPIRED = "The token has expired."
_REASONS: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: _EXPIRED,
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidSignatureError: "The token's signature is wrong.",
    jwt.InvalidIssuerError: "The token is from another issuer.",
    jwt.InvalidAudienceError: "The token is for another audience.",
}


class Keys(Protocol):
    """What verifies tokens."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The only ones that a token may be signed with."""

    def get_key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key that the token's ``kid`` names.

        Raises:
            UnknownKey: there is none.
            KeysUnavailable: nobody can tell.
        """

    def prefetch(self) -> None:
        """Have the keys before the first token comes, if they can be had."""


class SharedSecret:
    """One secret for whoever signs and for us."""

    algorithms = ("HS256",)

    def __init__(self, secret: str) -> None:
        encoded = base64.urlsafe_b64encode(secret.encode()).decode()
        self._key = jwt.PyJWK({"kty": "oct", "k": encoded}, "HS256")

    def get_key(self, _key_id: str | None) -> jwt.PyJWK:
        """Return the secret, whatever the token calls it."""
        return self._key

    def prefetch(self) -> None:
        """It is there."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """What is remembered of a token. The key too: it may be withdrawn before the token expires."""

    caller: Caller
    expires_at: float
    key_id: str | None
    key: jwt.PyJWK


class TokenVerifier:
    """Turns tokens into callers."""

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without an audience of ours a token that names one is for somebody else (RFC 7519, 4.1.3)."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._remembered: dict[bytes, _Verified] = {}

    def prefetch(self) -> None:
        """Have the keys before the first token comes, if they can be had."""
        self._keys.prefetch()

    def verify(self, token: str) -> Caller:
        """Return whom the token is about.

        Raises:
            BadCredentials: it is not valid.
            KeysUnavailable: nobody can tell, since the identity provider does not answer.
        """
        # The digest, so that no tokens lie about in memory.
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._remembered.get(digest)
        try:
            if verified is None or self._keys.get_key(verified.key_id) is not verified.key:
                verified = self._verify(token)
                if len(self._remembered) >= MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[digest] = verified
        except UnknownKey:
            raise BadCredentials("The token's key is not known.") from None
        except jwt.PyJWTError as error:
            raise BadCredentials(_reason_of(error)) from None
        if verified.expires_at <= self._clock() - LEEWAY_S:
            raise BadCredentials(_EXPIRED)
        return verified.caller

    def _verify(self, token: str) -> _Verified:
        header = jwt.get_unverified_header(token)
        # Before the key is looked for: a token that cannot be ours costs the identity provider nothing.
        if header.get("alg") not in self._keys.algorithms:
            raise BadCredentials("The token is not signed by an algorithm that is accepted here.")
        key_id = header.get("kid")
        key = self._keys.get_key(key_id)
        claims = jwt.decode(
            token,
            key,
            algorithms=self._keys.algorithms,
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY_S,
            options=_OPTIONS,
        )
        caller = Caller(_user_id_of(claims["sub"]), _scopes_of(claims))
        return _Verified(caller, int(claims["exp"]), key_id, key)


def make_verifier(settings: Settings) -> TokenVerifier:
    """Make what the settings ask for, in jwt mode."""
    keys: Keys
    if settings.jwt_secret is not None:
        keys = SharedSecret(settings.jwt_secret.get_secret_value())
    else:
        # Whoever waits for the provider is in hand: at most half of those, so that others find room.
        keys = ProviderKeys(settings.jwt_jwks_url or "", seats=max(1, settings.api_queue // 2))
    return TokenVerifier(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _user_id_of(subject: object) -> int:
    """Read ``sub``. The standard wants a string; a whole number is as clear, a float or a boolean is not."""
    if type(subject) is int and 1 <= subject <= MAX_ID:
        return subject
    user_id = find_user_id(subject) if isinstance(subject, str) else None
    if user_id is None:
        raise BadCredentials("The token's sub is not a user id, a positive integer.")
    return user_id


def _scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Read ``scope`` (RFC 8693: words with spaces between) and ``scp`` (the same, or a list: some providers' habit)."""
    found: list[str] = []
    for claim in (claims.get("scope"), claims.get("scp")):
        if isinstance(claim, str):
            found += claim.split(" ")
        elif isinstance(claim, list):
            found += [each for each in claim if isinstance(each, str)]
    return frozenset(found)


def _reason_of(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"The token has no {error.claim}."
    return _REASONS.get(type(error), "The token is not well-formed.")
