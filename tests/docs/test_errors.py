"""Every error code, status and reason stands in the reference."""

from api.calls.problems import PROBLEMS
from models.errors import REFUSALS, IdempotencyKeyReused, NotReversible, ReversalExceeds
from models.ledger.attempts import ATTEMPTS_EXHAUSTED, WORKER_LOST
from models.ledger.transfer import Status
from tests.docs.pages import REFERENCE, by_name, rows, section

PAGE = REFERENCE / "errors.md"
TRY_AGAIN = 429


def test_every_error_code_stands_with_its_status() -> None:
    told = by_name(rows(section(PAGE, "Error codes")), "code")
    assert {code: row["status"] for code, row in told.items()} == {
        code: str(problem.status) for code, problem in PROBLEMS.items()
    }


def test_what_may_be_sent_again_is_told_to() -> None:
    told = by_name(rows(section(PAGE, "Error codes")), "code")
    may = {code for code, problem in PROBLEMS.items() if problem.status >= TRY_AGAIN}
    assert {code for code, row in told.items() if row["repeat?"] != "no"} == may


def test_every_code_that_a_caller_can_do_something_about_is_spoken_of() -> None:
    _, _, what_to_do = section(PAGE, "Error codes").partition("What to do:")
    by_status = ("400", "405", "413", "415", "422")
    unspoken = [
        code
        for code, problem in PROBLEMS.items()
        if f"`{code}`" not in what_to_do and str(problem.status) not in by_status and problem.status != 404
    ]
    assert unspoken == []


def test_every_status_stands_and_only_pending_is_not_final() -> None:
    told = by_name(rows(section(PAGE, "Statuses of a transfer")), "status")
    assert set(told) == {status.value for status in Status}
    assert {status for status, row in told.items() if row["final"] == "no"} == {
        status.value for status in Status if not status.is_final
    }


def test_every_reason_stands_with_its_status() -> None:
    told = by_name(rows(section(PAGE, "Reasons")), "reason")
    business = REFUSALS.keys() - {IdempotencyKeyReused.code, NotReversible.code, ReversalExceeds.code}  # no jobs
    assert {reason: row["of"] for reason, row in told.items()} == {
        **dict.fromkeys(business, f"`{Status.REJECTED}`"),
        **dict.fromkeys((ATTEMPTS_EXHAUSTED, WORKER_LOST), f"`{Status.FAILED}`"),
    }
