"""Whether an event that was sent to a URL of yours is the service's: Standard Webhooks 1.0.0.

Give :func:`verify` the body as it came, byte for byte: JSON that was parsed and written again is another text.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping

from wallet_client.decoding import Unreadable, decode
from wallet_client.resources import Event

PREFIX = "whsec_"
_VERSION = "v1"


class NotVerified(Exception):
    """It is not the service's, is too old or too new, or is no event. Answer 400, and do nothing."""


def verify(
    secret: str | Iterable[str],
    headers: Mapping[str, str],
    body: bytes | str,
    tolerance: float = 300,
    *,
    now: float | None = None,
) -> Event:
    """Return the event that was sent.

    The same event may come more than once, and in any order: remember ``event_id``, which is the header ``webhook-id``.

    Args:
        secret: what the service told when the webhook was made (``whsec_…``), or several, while it is being renewed.
        headers: of the request, in any case.
        body: of the request, as it came.
        tolerance: how many seconds its time may be away from ours, before or after.
        now: our time, in seconds since 1970.

    Raises:
        NotVerified: it is not to be believed.
        ValueError: a secret is none.
    """
    keys = [_key(each) for each in ([secret] if isinstance(secret, str) else secret)]
    if not keys:
        raise ValueError("there should be a secret")
    sent = {name.lower(): value for name, value in headers.items()}
    try:
        number, at, signatures = (sent[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise NotVerified(f"the header {error.args[0]} is missing") from error
    raw = body.encode() if isinstance(body, str) else bytes(body)
    _check_time(at, time.time() if now is None else now, tolerance)
    _check_signatures(keys, signatures, b".".join((number.encode(), at.encode(), raw)))
    return _event(number, raw)


def _key(secret: str) -> bytes:
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError("a secret should be whsec_ and Base64") from error
    # Anybody can sign with nothing.
    if not key:
        raise ValueError("a secret should not be empty")
    return key


def _check_time(at: str, now: float, tolerance: float) -> None:
    if not (at.isascii() and at.isdigit()):
        raise NotVerified("webhook-timestamp is not a number of seconds")
    if abs(now - int(at)) > tolerance:
        raise NotVerified("webhook-timestamp is too far away from now")


def _check_signatures(keys: list[bytes], signatures: str, signed: bytes) -> None:
    expected = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    given = [
        text.encode()
        for version, _, text in (each.partition(",") for each in signatures.split())
        if version == _VERSION
    ]
    # All of them are compared, each in constant time: how long it takes says nothing of any.
    if not sum(hmac.compare_digest(one, other) for one in expected for other in given):
        raise NotVerified("no signature is of a secret that is known")


def _event(number: str, raw: bytes) -> Event:
    """Read the event. One that is of no transfer, such as a test, has no ``data``."""
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise NotVerified("the body is no event")
        if not str(found.get("type")).startswith("transfer."):
            found["data"] = None
        event = decode(Event, found)
    except (Unreadable, ValueError) as error:
        raise NotVerified(f"the body is no event: {error}") from error
    if str(event.event_id) != number:
        raise NotVerified("webhook-id is not that of the event")
    return event
