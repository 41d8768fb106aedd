"""What the page on gRPC says of errors, calls and limits is so."""

import pytest

from tests.docs.pages import DOCS, REFERENCE, by_name, code, codes, rows, section
from tests.docs.test_limits import find
from wallet.v1.wallet_pb2 import DESCRIPTOR

PAGE = DOCS / "grpc.md"
SERVICE = DESCRIPTOR.services_by_name["WalletService"]
CODES = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "413": "INVALID_ARGUMENT",
    "422": "FAILED_PRECONDITION",
    "429": "RESOURCE_EXHAUSTED",
    "503": "UNAVAILABLE",
}
# What only a call by HTTP can be answered.
OF_REST_ONLY = {
    "not_found",
    "method_not_allowed",
    "unsupported_media_type",
    "not_reversible",
    "reversal_exceeds",
    "bulk_not_found",
    "not_cancelable",
    "entries_left",
    "webhook_not_found",
}


def test_every_error_of_the_reference_stands_with_its_code_and_whether_to_repeat() -> None:
    told = {
        error: (status, row["repeat?"])
        for row in rows(section(PAGE, "Errors"))
        if "`error-code`" in row
        for status in codes(row["code"])
        for error in codes(row["`error-code`"])
    }
    errors = by_name(rows(section(REFERENCE / "errors.md", "Error codes")), "code")
    existing = {
        error: (CODES[row["status"]], row["repeat?"]) for error, row in errors.items() if error not in OF_REST_ONLY
    }
    assert told == existing


def test_every_call_of_the_contract_stands_in_the_table() -> None:
    told = [name for row in rows(section(PAGE, "What there is")) for name in codes(row["call"])]
    assert told == [method.name for method in SERVICE.methods]


@pytest.mark.parametrize(
    "row", [row for row in rows(section(PAGE, "Limits")) if row["held by"]], ids=lambda row: code(row["held by"])
)
def test_a_limit_is_what_the_page_says(row: dict[str, str]) -> None:
    assert find(code(row["held by"])) == float(code(row["limit"]).replace(",", ""))
