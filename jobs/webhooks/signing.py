"""Signatures by Standard Webhooks 1.0.0, symmetric: HMAC-SHA256 over ``<id>.<timestamp>.<body>``."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

# How a secret is shown, and how a signature of this kind begins.
SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret
_VERSION = "v1,"
# How far a receiver's clock and ours may be apart, with the time that a delivery takes.
TOLERANCE_S = 300

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


class Unverified(Exception):
    """A message is not what it says it is. The message tells why."""


def show(secret: bytes) -> str:
    """Spell a secret as it is shown to whoever verifies by it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def read(text: str) -> bytes:
    """Read a secret as it was shown.

    Raises:
        ValueError: it is none.
    """
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be {SECRET_PREFIX} and base64") from None


def sign(secrets: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that go with a body: a signature by each secret, so that one can be changed for another."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    signatures = " ".join(_VERSION + _signature(secret, signed) for secret in secrets)
    return {ID: message_id, TIMESTAMP: str(timestamp), SIGNATURE: signatures}


def verify(secret: bytes, headers: Mapping[str, str], body: bytes, *, now_s: float) -> None:
    """Make sure that a message comes from who has the secret, and is of just now.

    Args:
        secret: as bytes.
        headers: by their names in lower case.
        body: as it came.
        now_s: seconds since the Unix epoch.

    Raises:
        Unverified: it does not, or is not.
    """
    message_id, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    if not message_id or not (timestamp.isascii() and timestamp.isdecimal()):
        raise Unverified("it has no id, or no timestamp")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise Unverified("its timestamp is too far from now")
    expected = _signature(secret, b"%s.%s.%s" % (message_id.encode(), timestamp.encode(), body))
    for given in headers.get(SIGNATURE, "").split(" "):
        if given.startswith(_VERSION) and hmac.compare_digest(given[len(_VERSION) :].encode(), expected.encode()):
            return
    raise Unverified("no signature fits")


def _signature(secret: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
