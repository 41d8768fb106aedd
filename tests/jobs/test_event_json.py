"""The JSON of transfers and events, to the letter."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from jobs.event_json import as_json
from models.ledger.events import Event
from models.ledger.transfer import Details, Kind, Status, Transfer

AT = datetime(2026, 11, 23, 14, 47, 38, 155688, tzinfo=UTC)
DEPOSIT = Transfer(
    id=2**63 - 1,
    kind=Kind.DEPOSIT,
    source=None,
    destination=9007199254740993,
    amount_cents=9007199254740995,
    status=Status.POSTED,
    reason=None,
    attempts=1,
    last_error=None,
    next_attempt_at=None,
    created_at=AT,
    completed_at=AT + timedelta(milliseconds=1),
    details=Details(description="d", metadata={"k": "v"}),
)


def test_ids_are_strings_amounts_are_numbers_and_instants_are_in_utc() -> None:
    event = Event(id=2**53 + 1, type="transfer.posted", created_at=AT, transfer=DEPOSIT)
    assert as_json(event) == {
        "event_id": "9007199254740993",
        "type": "transfer.posted",
        "created_at": "2026-11-23T14:47:38.155688Z",
        "data": {
            "job_id": "9223372036854775807",
            "status": "posted",
            "source_user_id": None,
            "destination_user_id": "9007199254740993",
            "amount": 9007199254740995,
            "reason": None,
            "attempts": 1,
            "last_error": None,
            "next_attempt_at": None,
            "created_at": "2026-11-23T14:47:38.155688Z",
            "completed_at": "2026-11-23T14:47:38.156688Z",
            "kind": "deposit",
            "description": "d",
            "reference": None,
            "metadata": {"k": "v"},
            "not_before": None,
            "reverses": None,
            "reversed_amount": None,
            "bulk_id": None,
        },
    }


def test_what_waits_says_until_when_whatever_the_zone() -> None:
    there = AT.astimezone(timezone(timedelta(hours=5)))
    waiting = replace(DEPOSIT, status=Status.PENDING, completed_at=None, next_attempt_at=there)
    event = Event(id=1, type="transfer.requeued", created_at=there, transfer=waiting)
    assert as_json(event)["created_at"] == as_json(event)["data"]["next_attempt_at"] == "2026-11-23T14:47:38.155688Z"
    assert as_json(event)["data"]["completed_at"] is None
