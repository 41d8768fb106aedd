"""``flask webhooks listen``: what would be sent, sent over the wire, with its signature checked."""

import json
import re

import pytest
import standardwebhooks
from flask.testing import FlaskClient
from sqlalchemy import Engine

from jobs.webhooks import signing
from jobs.webhooks.posting import Poster
from tests.api.calls import ADMIN, DEPOSIT, answer, get, post
from tests.api.commands.conftest import Runner
from tests.jobs.webhooks.driving import number_all
from tests.jobs.webhooks.receivers import Receiver, Reply

LISTEN = ("webhooks", "listen", "--after", 0)


@pytest.fixture
def happened(client: FlaskClient, engine: Engine) -> FlaskClient:
    """Three deposits, one of them another user's."""
    for user in (1, 2, 1):
        answer(post(client, DEPOSIT, {"amount": 5, "description": "caf\u00e9"}, user=user))
    number_all(engine)
    return client


def test_what_would_be_sent_is_shown_with_its_signature_checked(run: Runner, happened: FlaskClient) -> None:
    shown = run(*LISTEN, "--count", 3)
    assert shown.exit_code == 0, shown.stderr
    events = answer(get(happened, "/api/events/v1", user=ADMIN))["events"]
    bodies = [json.loads(line) for line in re.findall(r"^  (\{.*\})$", shown.stdout, re.MULTILINE)]
    assert bodies == events
    assert shown.stdout.isascii()
    assert shown.stdout.count("  the signature fits") == shown.stdout.count("  answered 204") == 3
    assert [line for line in shown.stdout.splitlines() if line.startswith("event ")] == [
        f"event {number}: transfer.posted" for number in (1, 2, 3)
    ]
    assert re.search(r"http://127\.0\.0\.1:\d+/, signed with whsec_\S{44} ", shown.stderr)


def test_events_are_chosen_as_a_webhook_would_have_them(run: Runner, happened: FlaskClient) -> None:
    del happened
    shown = run(*LISTEN, "--user", 2, "--type", "transfer.posted", "--count", 1)
    assert "event 2: transfer.posted" in shown.stdout
    assert "event 1" not in shown.stdout


def test_they_are_sent_on_to_a_receiver_on_this_machine(run: Runner, happened: FlaskClient) -> None:
    del happened
    secret = signing.show(b"s" * 32)
    with Receiver() as receiver:
        receiver.answering(Reply(200), Reply(500))
        shown = run(*LISTEN, "--to", receiver.url, "--secret", secret, "--count", 2)
    assert shown.exit_code == 0, shown.stderr
    assert re.findall(r"answered (\d+)", shown.stdout) == ["200", "500"]
    for request in receiver.received:
        standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


def test_nobody_there_is_told(run: Runner, happened: FlaskClient) -> None:
    del happened
    with Receiver() as receiver:
        url = receiver.url
    shown = run(*LISTEN, "--to", url, "--count", 1)
    assert "not delivered: Connection refused" in shown.stdout


def test_a_signature_that_does_not_fit_is_a_fault(
    run: Runner, happened: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del happened
    really = Poster.post

    def spoil(self: Poster, url: str, headers: dict[str, str], body: bytes) -> object:
        return really(self, url, headers, body + b" ")

    monkeypatch.setattr(Poster, "post", spoil)
    shown = run(*LISTEN, "--count", 1)
    assert shown.exit_code == 1
    assert "the signature does not fit" in shown.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--to", "https://8.8.8.8/"), ("--to", "http://8.8.8.8/"), ("--to", "https://127.0.0.1/"), ("--to", "nothing"),
        ("--secret", "whsec_!"), ("--user", "0"), ("--after", "-1"), ("--count", "0"), ("--port", "65536"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told(run: Runner, options: tuple[str, str]) -> None:
    assert run("webhooks", "listen", *options).exit_code == 2
