"""Signatures, by our own reading of Standard Webhooks and by its own libraries for Python and JavaScript."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from sqlalchemy import Engine

from jobs.webhooks import signing
from jobs.webhooks.signing import TOLERANCE_S, Unverified, sign, verify
from models.webhooks import endpoints
from tests.jobs.webhooks.driving import Driver, Endpoints, Happen
from tests.jobs.webhooks.receivers import Receiver
from tests.node import Node

OLD, NEW, OTHER = b"o" * 24, b"n" * 32, b"x" * 64
PAYLOAD = b'{"test": 2432232314}'
BODY = b'{"caf\xc3\xa9":1}'
NOW_S = 1_790_000_000


def headers(*secrets: bytes, now_s: int = NOW_S) -> dict[str, str]:
    return sign(secrets, message_id="4711", timestamp=now_s, body=BODY)


def test_the_example_of_the_standard() -> None:
    """From the standard's own text, section "Verifying webhook authenticity", and the tests of its libraries."""
    secret = signing.read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(
        [secret], message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1_614_265_330, body=b'{"test": 2432232314}'
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_read_as_it_was_shown() -> None:
    assert signing.read(signing.show(NEW)) == NEW
    assert signing.show(NEW).startswith("whsec_")
    with pytest.raises(ValueError, match="base64"):
        signing.read("whsec_!")


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_each_of_two_secrets_verifies(secret: bytes) -> None:
    verify(secret, headers(NEW, OLD), BODY, now_s=NOW_S)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"webhook-id": "4712"}, "no signature fits"),
        ({"webhook-timestamp": str(NOW_S + 1)}, "no signature fits"),
        ({"webhook-signature": ""}, "no signature fits"),
        ({"webhook-signature": "v1,\u00e4 v1a,AAAA v2,x"}, "no signature fits"),
        ({"webhook-id": ""}, "no id"),
        ({"webhook-timestamp": "now"}, "no id, or no timestamp"),
        ({"webhook-timestamp": str(NOW_S - TOLERANCE_S - 1)}, "too far"),
        ({"webhook-timestamp": str(NOW_S + TOLERANCE_S + 1)}, "too far"),
    ],
)
def test_what_was_changed_does_not(changed: dict[str, str], why: str) -> None:
    with pytest.raises(Unverified, match=why):
        verify(NEW, headers(NEW) | changed, BODY, now_s=NOW_S)


def test_neither_does_another_body_or_another_secret() -> None:
    with pytest.raises(Unverified):
        verify(NEW, headers(NEW), BODY + b" ", now_s=NOW_S)
    with pytest.raises(Unverified):
        verify(OTHER, headers(NEW, OLD), BODY, now_s=NOW_S)


# By the standard's own libraries, as it came over the network


def test_a_receiver_in_python_verifies_before_during_and_after_a_rotation(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver
) -> None:
    webhook_id = add(receiver.url)
    first, _ = endpoints.rotate(engine, webhook_id)
    second, until = endpoints.rotate(engine, webhook_id)
    assert timedelta(hours=23, minutes=59) < until - datetime.now(UTC) <= timedelta(hours=24)
    happen()
    driver.run()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE webhooks SET old_secret_until = now()")
    happen()
    driver.run()

    during, after = receiver.received
    for secret, request in ((first, during), (second, during), (second, after)):
        told = standardwebhooks.Webhook(signing.show(secret)).verify(request.body, dict(request.headers))
        assert told == json.loads(request.body)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(signing.show(first)).verify(after.body, dict(after.headers))


SCRIPT = """
const { Webhook } = require("standardwebhooks");
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
for (const [secret, headers, body] of cases) {
  try {
    console.log(new Webhook(secret).verify(body, headers).event_id);
  } catch (error) {
    console.log(error.name);
  }
}
"""


def test_a_receiver_in_javascript_verifies(
    engine: Engine, happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver, node: Node
) -> None:
    webhook_id = add(receiver.url)
    old, _ = endpoints.rotate(engine, webhook_id)
    new, _ = endpoints.rotate(engine, webhook_id)
    (event_id,) = happen()
    driver.run()
    (request,) = receiver.received
    cases = [
        [signing.show(secret), dict(request.headers), body]
        for secret, body in (
            (old, request.body.decode()),
            (new, request.body.decode()),
            (OTHER, request.body.decode()),
            (new, request.body.decode() + " "),
        )
    ]
    refused = "WebhookVerificationError"
    assert node.run(SCRIPT, json.dumps(cases)).split() == [str(event_id), str(event_id), refused, refused]


def test_what_is_signed_is_of_just_now(happen: Happen, add: Endpoints, receiver: Receiver, driver: Driver) -> None:
    add(receiver.url)
    before = int(time.time())
    happen()
    driver.run()
    assert before <= int(receiver.received[0].headers["webhook-timestamp"]) <= time.time()
