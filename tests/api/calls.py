"""Asking the service, and reading what it answers the way the contract spells it."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import ADMIN_PASSWORD

Json: TypeAlias = dict[str, Any]

DEPOSIT = "/api/deposit/v1"
WITHDRAW = "/api/withdraw/v1"
TRANSFER = "/api/transfer/v1"
TRANSFER_LATER = "/api/transfer/v2"
BALANCE = "/api/wallet/balance/v1"
HISTORY = "/api/transactions/v1"
JOBS = "/api/jobs/v1"

# Every call that moves money, with a body that it accepts once users 1 and 2 have money.
MOVES = {
    DEPOSIT: {"amount": 67},
    WITHDRAW: {"amount": 67},
    TRANSFER: {"destination_user_id": 2, "amount": 67},
    TRANSFER_LATER: {"destination_user_id": 2, "amount": 67},
}

# The contract's table of errors, as far as anything here can cause them.
STATUS_OF = {
    "bad_input": 400,
    "invalid_amount": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "wallet_not_found": 404,
    "job_not_found": 404,
    "webhook_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "wallet_frozen": 422,
    "balance_insufficient": 422,
    "self_transfer_invalid": 422,
    "balance_overflow": 422,
    "bulk_not_found": 404,
    "not_reversible": 422,
    "reversal_exceeds": 422,
    "idempotency_key_reused": 422,
    "not_cancelable": 422,
    "entries_left": 422,
    "rate_limited": 429,
    "unavailable": 503,
    "outcome_unknown": 503,
}
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "message", "trace_id"}

MAX_INT64 = 2**63 - 1
_RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_DIGITS = re.compile(r"[1-9][0-9]{0,18}")


def basic(user: str, password: str) -> str:
    """Spell credentials for HTTP Basic."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ADMIN = basic("admin", ADMIN_PASSWORD)


def ask(
    client: FlaskClient,
    method: str,
    path: str,
    *,
    user: int | str | None = 1,
    body: Json | bytes | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> TestResponse:
    """Send a request; a body is JSON, given as an object or as the bytes themselves."""
    sent = {} if user is None else {"Authorization": str(user)}
    if key is not None:
        sent["Idempotency-Key"] = key
    if body is not None:
        sent["Content-Type"] = "application/json"
    sent |= headers or {}
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    return client.open(path, method=method, headers=sent, data=data)


def post(
    client: FlaskClient,
    path: str,
    body: Json | bytes,
    *,
    user: int | str | None = 1,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> TestResponse:
    """Move money."""
    return ask(client, "POST", path, user=user, body=body, key=key, headers=headers)


def get(client: FlaskClient, path: str, *, user: int | str | None = 1) -> TestResponse:
    """Read something."""
    return ask(client, "GET", path, user=user)


def answer(response: TestResponse, status: int = 200) -> Json:
    """Return the JSON object of a success."""
    assert (response.status_code, response.content_type) == (status, "application/json"), response.data
    return decode(response.data)


def decode(raw: bytes) -> Json:
    """Read a JSON object."""
    found = json.loads(raw)
    assert isinstance(found, dict)
    return found


def problem(response: TestResponse, code: str, **extra: object) -> Json:
    """Return a problem, after checking it against the contract."""
    body = decode(response.data)
    if code == "idempotency_key_reused":
        assert is_id(body["transfer_id"])
        extra = {"transfer_id": body["transfer_id"]} | extra
    assert (response.status_code, body["code"]) == (STATUS_OF[code], code), body
    assert response.content_type == "application/problem+json"
    assert body.keys() == PROBLEM_FIELDS | extra.keys()
    assert body["status"] == response.status_code
    assert body | extra == body
    assert all(isinstance(body[name], str) and body[name] for name in PROBLEM_FIELDS - {"status"})
    assert body["trace_id"] == response.headers["traceparent"].split("-")[1]
    if response.status_code == 503:
        assert int(response.headers["Retry-After"]) >= 1
    return body


def is_id(value: object) -> bool:
    """Whether this is a 64-bit id as responses spell it: a string of digits."""
    return isinstance(value, str) and _DIGITS.fullmatch(value) is not None and int(value) <= MAX_INT64


def is_instant(value: object) -> bool:
    """Whether this is a time of the last minute as responses spell it: RFC 3339 in UTC."""
    if not (isinstance(value, str) and _RFC3339_UTC.fullmatch(value)):
        return False
    return abs((datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds()) < 60


def undocumented(app: Flask) -> FlaskClient:
    """Return a client for routes of a test's own, which are in no document."""
    return FlaskClient(app, app.response_class, use_cookies=False)


def fund(client: FlaskClient, *users: int, amount: int = 10_000) -> None:
    """Open wallets by deposits."""
    for user in users:
        answer(post(client, DEPOSIT, {"amount": amount}, user=user))


def balance_of(client: FlaskClient, user: int) -> int:
    """Return what the balance endpoint says."""
    found = answer(get(client, BALANCE, user=user))["balance"]
    assert type(found) is int
    return found


def accept(client: FlaskClient, amount: int = 67, *, user: int = 1, to: int = 2, key: str | None = None) -> str:
    """Give a transfer to the queue and return its job id."""
    body = {"destination_user_id": to, "amount": amount}
    job_id = answer(post(client, TRANSFER_LATER, body, user=user, key=key), 202)["job_id"]
    assert is_id(job_id)
    return str(job_id)
