"""Who a request comes from, as far as both modes of AUTH_MODE have it in common: no tokens, and no HTTP."""

import re
from dataclasses import dataclass
from typing import Protocol

from models.ledger.transfer import MAX_ID

_USER_ID = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, and what its token was granted."""

    user_id: int
    scopes: frozenset[str] = frozenset()


@dataclass
class BadCredentials(Exception):
    """The credentials name no user; the reason is a sentence that repeats nothing of them."""

    reason: str


class KeysUnavailable(Exception):
    """Nobody can tell whether there is such a key: the provider does not answer as it should."""


class Verifier(Protocol):
    """What tells by a token who sends it."""

    def prefetch(self) -> None:
        """Have what it verifies by before the first token comes, if it can be had."""

    def verify(self, token: str) -> Caller:
        """Return whom the token is about.

        Raises:
            BadCredentials: it is not valid.
            KeysUnavailable: nobody can tell.
        """


def find_user_id(text: str) -> int | None:
    """Return the user id that is spelled here: a positive 64-bit integer without sign, spaces or leading zeros."""
    if not _USER_ID.fullmatch(text):
        return None
    user_id = int(text)
    return user_id if user_id <= MAX_ID else None
