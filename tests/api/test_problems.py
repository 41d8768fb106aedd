"""What an error comes to for whoever has called: a code of the contract, words of ours, and whether money moved."""

from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from api.calls.call import Call
from api.calls.problems import PROBLEMS, ApiError, Explained, explain
from api.calls.tracing import Trace
from models.errors import (
    REFUSALS,
    BalanceInsufficient,
    BulkRejected,
    Fault,
    IdempotencyKeyReused,
    NotArchived,
    OutcomeUnknown,
    TransferNotFound,
    Unavailable,
)

TRANSFER_ID = 120_614_894_021_115_904
SECRET = "wallet:hunter2@db"
UNAVAILABLE = {"Retry-After": "1"}
UNKNOWN = {"transfer_id": str(TRANSFER_ID)}


class Mute(Exception):
    """What has no words at all."""

    def __str__(self) -> str:
        raise ZeroDivisionError(SECRET)


TECHNICAL: dict[str, Exception] = {
    "a fault": Fault(),
    "a database that is away": Unavailable(),
    "a statement that failed": OperationalError("SELECT secret", {}, Exception(SECRET)),
    "a pool that is empty": PoolTimeoutError(SECRET),
    "a defect": ZeroDivisionError(SECRET),
    "an error that no face should meet": NotArchived(SECRET),
    "a key that is not there": KeyError(SECRET),
    "one that cannot even be told": Mute(),
}


@pytest.fixture
def call() -> Call:
    """A call that has done nothing yet."""
    return Call(Trace("1" * 32, "2" * 16, "00", "r1"), None, lambda: "127.0.0.1")


def test_what_the_api_itself_has_found_out_is_told_as_it_is(call: Call) -> None:
    headers = {"WWW-Authenticate": "Basic"}
    with capture_logs() as lines:
        assert explain(ApiError("unauthorized", "Who?", headers), call) == Explained("unauthorized", "Who?", headers)
    assert lines == []


def test_a_key_that_was_used_names_what_it_is_bound_to(call: Call) -> None:
    error = IdempotencyKeyReused(TRANSFER_ID)
    assert explain(error, call).facts == {"transfer_id": str(TRANSFER_ID)}


@pytest.mark.parametrize("code", sorted(REFUSALS.keys() - {IdempotencyKeyReused.code, BulkRejected.code}))
def test_a_business_no_has_its_own_code_and_its_own_words(call: Call, code: str) -> None:
    error: Any = REFUSALS[code]()
    call.placed = TRANSFER_ID  # what was refused has been refused, whatever stands in the books
    with capture_logs() as lines:
        assert explain(error, call) == Explained(code, str(error))
    assert code in PROBLEMS
    assert lines == []


def test_a_refusal_without_facts_is_a_sentence(call: Call) -> None:
    assert explain(BalanceInsufficient(), call).detail == "The balance is below the amount."


def test_a_job_of_others_and_one_that_is_none_are_told_in_the_same_words(call: Call) -> None:
    told = {explain(TransferNotFound(number), call) == explain(TransferNotFound(1), call) for number in (2, 3)}
    assert told == {True}
    assert explain(TransferNotFound(TRANSFER_ID), call).code == "job_not_found"
    assert str(TRANSFER_ID) not in explain(TransferNotFound(TRANSFER_ID), call).detail


def test_an_outcome_that_is_unknown_names_its_transfer(call: Call) -> None:
    with capture_logs() as lines:
        found = explain(OutcomeUnknown(TRANSFER_ID), call)
    assert (found.code, found.headers, found.facts) == ("outcome_unknown", UNAVAILABLE, UNKNOWN)
    assert [(line["log_level"], line["job_id"]) for line in lines] == [("error", str(TRANSFER_ID))]


@pytest.mark.parametrize("error", TECHNICAL.values(), ids=TECHNICAL)
def test_what_went_wrong_is_in_the_log_and_nowhere_else(call: Call, error: Exception) -> None:
    with capture_logs() as lines:
        found = explain(error, call)
    assert (found.code, found.headers, found.facts) == ("unavailable", UNAVAILABLE, {})
    assert found.detail.endswith("Nothing moved.")
    assert not any(word in found.detail for word in ("SELECT", SECRET, "ZeroDivision"))
    (line,) = lines
    expected = ("error", "unavailable") if is_known(error) else ("critical", "unexpected error")
    assert (line["log_level"], line["event"]) == expected


def is_known(error: Exception) -> bool:
    return isinstance(error, Fault | OperationalError | PoolTimeoutError)


@pytest.mark.parametrize("error", TECHNICAL.values(), ids=TECHNICAL)
def test_nobody_is_told_that_nothing_moved_once_the_transfer_stands(call: Call, error: Exception) -> None:
    call.placed = TRANSFER_ID
    found = explain(error, call)
    assert (found.code, found.headers, found.facts) == ("outcome_unknown", UNAVAILABLE, UNKNOWN)
    assert "Nothing moved" not in found.detail
