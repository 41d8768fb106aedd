"""Every call and every header of the contract stands on its page."""

from flask import Flask

from api.access.cors import ALLOWED, EXPOSED
from api.contract.components import HEADERS, REQUEST_HEADERS
from api.contract.operations import Who
from api.contract.routes import OPERATIONS
from tests.docs.pages import DOCS, REFERENCE, code, codes, rows, section

WHO = {Who.ANYONE: "anyone", Who.USER: "user", Who.ADMIN: "administrator", Who.USER_OR_ADMIN: "user, administrator"}


def test_every_call_stands_with_who_may_make_it(app: Flask) -> None:
    told = {code(row["call"]).partition("?")[0]: row["who"] for row in rows(section(DOCS / "api.md", "Calls"))}
    existing = {
        f"{method} {rule.rule}": WHO[OPERATIONS[rule.endpoint].who]
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint in OPERATIONS
    }
    assert told == existing


def test_every_header_of_a_request_stands_in_the_reference() -> None:
    told = {code(row["header"]) for row in rows(section(REFERENCE / "headers.md", "Of a request"))}
    assert told == {"Authorization", "Content-Type", *REQUEST_HEADERS}


def test_every_header_of_an_answer_stands_in_the_reference() -> None:
    told = {code(row["header"]) for row in rows(section(REFERENCE / "headers.md", "Of an answer"))}
    assert told == set(HEADERS)


def test_the_headers_that_other_sites_may_send_and_read_stand_in_the_reference() -> None:
    told = set(codes(section(REFERENCE / "headers.md", "Between sites").replace("\n", " ")))
    assert told - {"CORS_ORIGINS", "/api/…", "/openapi.json"} == {*ALLOWED, *EXPOSED}
