"""Webhooks are verified as Standard Webhooks 1.0.0 has it; its own library makes what is verified."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from api.contract.routes import OPERATIONS
from wallet_client.webhooks import NotVerified, verify

EVENT: dict[str, Any] = OPERATIONS["events.events"].answers[200].example["events"][0]
ID = EVENT["event_id"]
BODY = json.dumps(EVENT, separators=(",", ":"))
NOW = 1_790_000_000
Headers = dict[str, str]


def _secret(*, size: int = 24) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()


def _signed(*by: str, body: str = BODY, at: int = NOW, number: str = ID) -> Headers:
    moment = datetime.fromtimestamp(at, UTC)
    signatures = [Webhook(each).sign(msg_id=number, timestamp=moment, data=body) for each in by]
    return {"webhook-id": number, "webhook-timestamp": str(at), "webhook-signature": " ".join(signatures)}


@pytest.fixture
def secret() -> str:
    return _secret()


@pytest.mark.parametrize("size", [1, 24, 32, 64])
def test_what_the_standards_library_signs_is_verified(size: int) -> None:
    secret = _secret(size=size)
    event = verify(secret, _signed(secret), BODY.encode(), now=NOW)
    assert (str(event.event_id), event.type) == (ID, EVENT["type"])
    assert event.data is not None
    assert str(event.data.job_id) == EVENT["data"]["job_id"]


def test_it_is_what_the_standards_library_verifies(secret: str) -> None:
    headers = _signed(secret, at=int(time.time()))
    assert Webhook(secret).verify(BODY, headers) == EVENT
    verify(secret, headers, BODY)


def test_names_of_headers_may_be_in_any_case_and_a_secret_without_its_prefix(secret: str) -> None:
    headers = {name.title(): value for name, value in _signed(secret).items()}
    verify(secret.removeprefix("whsec_").rstrip("="), headers, BODY.encode(), now=NOW)


def test_while_a_secret_is_renewed_either_is_good(secret: str) -> None:
    old = _secret()
    both = _signed(old, secret)
    for known in (secret, old, [secret, old], (_secret(), secret)):
        verify(known, both, BODY, now=NOW)
    verify([secret, old], _signed(old), BODY, now=NOW)
    with pytest.raises(NotVerified, match="no signature"):
        verify(_secret(), both, BODY, now=NOW)


@pytest.mark.parametrize("away", [0, 299, 300, -300])
def test_a_time_that_is_near_is_good(secret: str, away: int) -> None:
    verify(secret, _signed(secret), BODY, now=NOW + away)


@pytest.mark.parametrize("away", [301, -301, 10**9])
def test_a_time_that_is_far_is_not_in_either_direction(secret: str, away: int) -> None:
    with pytest.raises(NotVerified, match="too far away"):
        verify(secret, _signed(secret), BODY, now=NOW + away)
    verify(secret, _signed(secret), BODY, abs(away), now=NOW + away)


_SPOILED: dict[str, Callable[[Headers], Headers]] = {
    "another id": lambda headers: headers | {"webhook-id": "4712"},
    "another time": lambda headers: headers | {"webhook-timestamp": str(NOW + 1)},
    "no number": lambda headers: headers | {"webhook-timestamp": f"{NOW}.0"},
    "before 1970": lambda headers: headers | {"webhook-timestamp": f"-{NOW}"},
    "no signature": lambda headers: headers | {"webhook-signature": ""},
    "another version": lambda headers: headers | {"webhook-signature": "v1a," + headers["webhook-signature"][3:]},
    "no version": lambda headers: headers | {"webhook-signature": headers["webhook-signature"][3:]},
    "cut short": lambda headers: headers | {"webhook-signature": headers["webhook-signature"][:-4]},
    "no ASCII": lambda headers: headers | {"webhook-signature": "v1,ä"},
    "no id": lambda headers: {name: value for name, value in headers.items() if name != "webhook-id"},
    "no headers": lambda _: {},
}


@pytest.mark.parametrize("spoil", _SPOILED.values(), ids=_SPOILED.keys())
def test_spoiled_headers_are_not_verified(secret: str, spoil: Callable[[Headers], Headers]) -> None:
    with pytest.raises(NotVerified):
        verify(secret, spoil(_signed(secret)), BODY, now=NOW)


@pytest.mark.parametrize("body", [BODY + " ", BODY.replace("1003", "1004"), json.dumps(EVENT, indent=1), ""])
def test_a_body_that_is_not_byte_for_byte_what_was_signed_is_not_verified(secret: str, body: str) -> None:
    with pytest.raises(NotVerified, match="no signature"):
        verify(secret, _signed(secret), body, now=NOW)


@pytest.mark.parametrize("body", ["", "[]", "{}", "null", '{"event_id": "4711"}', BODY.replace('"1"', '"one"')])
def test_what_is_signed_and_no_event_is_not_one(secret: str, body: str) -> None:
    with pytest.raises(NotVerified, match="no event"):
        verify(secret, _signed(secret, body=body), body, now=NOW)


def test_an_event_under_the_id_of_another_is_not_one(secret: str) -> None:
    with pytest.raises(NotVerified, match="webhook-id"):
        verify(secret, _signed(secret, number="4712"), BODY, now=NOW)


def test_a_test_is_an_event_of_no_transfer(secret: str) -> None:
    body = json.dumps(EVENT | {"type": "webhook.test", "data": {}})
    event = verify(secret, _signed(secret, body=body), body, now=NOW)
    assert (event.type, event.data) == ("webhook.test", None)


@pytest.mark.parametrize("wrong", ["", "whsec_", "whsec_ä", "whsec_a", "not base64!", []])
def test_a_secret_that_is_none_is_not_used(secret: str, wrong: str | list[str]) -> None:
    # With an empty one anybody could sign.
    signature = base64.b64encode(hmac.digest(b"", f"{ID}.{NOW}.{BODY}".encode(), hashlib.sha256)).decode()
    headers = _signed(secret) | {"webhook-signature": f"v1,{signature}"}
    with pytest.raises(ValueError, match="secret"):
        verify(wrong, headers, BODY, now=NOW)
