"""What holds every test's requests and responses against the document does complain."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from tests.api.calls import BALANCE, DEPOSIT, HISTORY, JOBS, TRANSFER_LATER, Json, fund, get
from tests.api.contract.document import DocumentedClient, Exchange, Undocumented, check, lowered

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACED = {"X-Request-ID": "r", "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-00"}
SENT = {"Authorization": "1", "Content-Type": "application/json"}
DEPOSITED = {"balance": 67, "transfer_id": "1"}


def problem(code: str, status: int) -> Json:
    """Return a problem as the service answers it."""
    texts = dict.fromkeys(("title", "detail", "message"), "x")
    return {"type": f"urn:wallet:problem:{code}", "status": status, "code": code, "trace_id": TRACE_ID} | texts


def exchange(body: object, answer: object, status: int = 200, *, path: str = DEPOSIT, **headers: str) -> Exchange:
    """Return a POST with a JSON body and its answer."""
    kind = "application/json" if status < 400 else "application/problem+json"
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(
        method="POST",
        path=path,
        sent=lowered(SENT),
        body=json.dumps(body).encode(),
        status=status,
        headers=lowered(TRACED | {"Content-Type": kind} | spelled),
        answer=json.dumps(answer).encode(),
    )


GOOD = exchange({"amount": 67}, DEPOSITED)
REFUSED = exchange({"amount": 0}, problem("invalid_amount", 400), 400)
NOWHERE = exchange({}, problem("not_found", 404), 404, path="/nowhere")
READ = replace(GOOD, method="GET", path=BALANCE, body=b"", answer=b'{"balance": 1}')
PAID = exchange(
    {"destination_user_id": "2", "amount": 1},
    {"success": True, "job_id": "1", "status": "pending", "status_url": "/api/jobs/v1/1"},
    202,
    path=TRANSFER_LATER,
    Location="/api/jobs/v1/1",
    Retry_After="1",
)


def without(given: Exchange, name: str) -> Exchange:
    """Take a header out of an answer."""
    return replace(given, headers={key: value for key, value in given.headers.items() if key != name.lower()})


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        REFUSED,
        NOWHERE,
        READ,
        PAID,
        replace(READ, method="HEAD", answer=b""),
        replace(REFUSED, query="x=1", answer=json.dumps(problem("bad_input", 400)).encode()),
        # 1.0 is an integer to JSON Schema: the service may be stricter than its document can say.
        exchange({"amount": 1.0}, problem("invalid_amount", 400), 400),
        replace(READ, path="/docs/x", status=500),
    ],
)
def test_what_the_document_says_passes(given: Exchange) -> None:
    check(given)


WRONG = {
    "a wrong body was accepted": exchange({"amount": 0}, DEPOSITED),
    "an unknown field was accepted": exchange({"amount": 1, "x": 1}, DEPOSITED),
    "no object was accepted": exchange([], DEPOSITED),
    "no JSON was accepted": replace(GOOD, body=b"{"),
    "another media type was accepted": replace(GOOD, sent=lowered(SENT | {"Content-Type": "text/plain"})),
    "no body was accepted": replace(GOOD, body=b"", sent={"authorization": "1"}),
    "an unknown parameter was accepted": replace(GOOD, query="x=1"),
    "a wrong parameter was accepted": replace(READ, path=HISTORY, query="page=0"),
    "a repeated parameter was accepted": replace(READ, path=HISTORY, query="page=1&page=1"),
    "a wrong path was accepted": replace(READ, path=f"{JOBS}/x"),
    "a key that is too long was accepted": replace(GOOD, sent=lowered(SENT | {"Idempotency-Key": "k" * 256})),
    "a key that is no text was accepted": replace(GOOD, sent=lowered(SENT | {"Idempotency-Key": "a\tb"})),
    "a wrong body was a fault": exchange({"amount": 0}, problem("unavailable", 503), 503, Retry_After="1"),
    "nobody was served": replace(READ, sent={}),
    "a status of another call": exchange({"amount": 67}, DEPOSITED, 202),
    "a status of none": exchange({"amount": 67}, problem("unavailable", 500), 500),
    "a code of another call": exchange({"amount": 67}, problem("balance_insufficient", 422), 422),
    "a code of another status": exchange({"amount": 0}, problem("unauthorized", 400), 400),
    "no trace": without(GOOD, "traceparent"),
    "no request id": without(REFUSED, "X-Request-ID"),
    "a trace that is none": exchange({"amount": 67}, DEPOSITED, traceparent="x"),
    "no Location": without(PAID, "Location"),
    "no Retry-After": without(PAID, "Retry-After"),
    "a Retry-After of 0": exchange({"amount": 67}, problem("unavailable", 503), 503, Retry_After="0"),
    "no challenge": exchange({"amount": 67}, problem("unauthorized", 401), 401),
    "another media type": exchange({"amount": 67}, DEPOSITED, Content_Type="text/html"),
    "a problem that is none": exchange({"amount": 0}, DEPOSITED, 400),
    "an id that is a number": exchange({"amount": 67}, {"balance": 67, "transfer_id": 1}),
    "a balance that is missing": exchange({"amount": 67}, {"transfer_id": "1"}),
    "a balance below zero": exchange({"amount": 67}, DEPOSITED | {"balance": -1}),
    "an outcome without its transfer": exchange({"amount": 67}, problem("outcome_unknown", 503), 503, Retry_After="1"),
    "something where nothing is": replace(GOOD, path="/nowhere"),
    "a method that is not there": replace(READ, method="PUT"),
    "a wrong method without Allow": replace(REFUSED, method="GET", status=405),
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_what_the_document_does_not_say_is_noticed(given: Exchange) -> None:
    with pytest.raises(Undocumented):
        check(given)


def test_every_client_of_the_tests_is_held_to_the_document(
    app: Flask, client: FlaskClient, make_app: Callable[[], Flask]
) -> None:
    fund(client, 1)
    assert isinstance(make_app().test_client(), DocumentedClient)
    app.view_functions["health.healthz"] = lambda: Response('{"status": 1}', mimetype="application/json")
    with pytest.raises(Undocumented, match="'ok' was expected"):
        get(client, "/healthz")
