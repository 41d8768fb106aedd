"""From one transport to the other with transfers on their way: they wait in PostgreSQL, and all are settled, once."""

import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.xdist_group("kafka")]

COUNT = 20


def _call(stack: Stack, method: str, path: str, body: dict[str, int] | None = None) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)) as connection:
        headers = {"Authorization": "1", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
        assert answer.status in {200, 202}, told
        return told


def _accept(stack: Stack) -> list[str]:
    paid = {"destination_user_id": 2, "amount": 1}
    accepted = [_call(stack, "POST", "/api/transfer/v2", paid)["job_id"] for _ in range(COUNT)]
    assert {_call(stack, "GET", f"/api/jobs/v1/{job_id}")["status"] for job_id in accepted} == {"pending"}
    return accepted


def _are_posted(stack: Stack, job_ids: list[str]) -> bool:
    return {_call(stack, "GET", f"/api/jobs/v1/{job_id}")["status"] for job_id in job_ids} == {"posted"}


def test_what_waits_in_one_transport_is_settled_by_the_other_and_back(java: None, tmp_path: Path) -> None:
    del java
    with Stack(tmp_path, TRANSPORT="rq", WORKERS="0") as stack:
        by_rq = _accept(stack)
        began_with = _call(stack, "GET", "/api/wallet/balance/v1")["balance"]
    with Stack(tmp_path, TRANSPORT="kafka", WORKERS="1") as stack:
        wait_until(lambda: _are_posted(stack, by_rq), PATIENCE_S, "what waited in Redis is settled")
    with Stack(tmp_path, TRANSPORT="kafka", WORKERS="0") as stack:  # there are topics now, and nobody reads them
        by_kafka = _accept(stack)
    with Stack(tmp_path, TRANSPORT="rq", WORKERS="1") as stack:
        wait_until(lambda: _are_posted(stack, by_kafka), PATIENCE_S, "what waited in the topics is settled")
        assert _call(stack, "GET", "/api/wallet/balance/v1")["balance"] == began_with - 2 * COUNT
    # Jobs that Redis still had, and records that the topics still have, are of transfers that are final.
    with Stack(tmp_path, TRANSPORT="kafka", WORKERS="1") as stack:
        last = _call(stack, "POST", "/api/transfer/v2", {"destination_user_id": 2, "amount": 1})
        wait_until(lambda: _are_posted(stack, [last["job_id"]]), PATIENCE_S, "the last one, behind those, is settled")
        assert _call(stack, "GET", "/api/wallet/balance/v1")["balance"] == began_with - 2 * COUNT - 1
