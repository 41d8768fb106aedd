"""What a caller says of a transfer: it is kept, told wherever the transfer is, and part of what a key is bound to."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from models.ledger import events
from tests.api.calls import (
    ADMIN,
    DEPOSIT,
    HISTORY,
    JOBS,
    MOVES,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    Json,
    answer,
    get,
    post,
    problem,
)

SAID: Json = {
    "description": "rent for November, 4b \N{EM DASH} \"as agreed\\\" 'ok' {x,NULL} \U0001f3e0",
    "reference": 'INV 2026/118 "{NULL}"\\',
    "metadata": {"flat": "4b", 'tenant, "quoted"': "O'Hara\n\\ {1,2}", "\U0001f600": ""},
}
NOTHING: Json = {"description": None, "reference": None, "metadata": None}
# As long as they may be.
LONGEST: list[Json] = [
    {"description": "d"},
    {"description": "\N{EURO SIGN}" * 140},
    {"reference": "r" * 64},
    {"reference": " ~"},
    {"metadata": {}},
    {"metadata": {str(number): "" for number in range(20)}},
    {"metadata": {"\N{EURO SIGN}" * 40: "\N{EURO SIGN}" * 500}},
    {"metadata": {str(number): "v" * 500 for number in range(8)} | {"8": "v" * 32}},
    {"metadata": {"a": "line\nbreak and \x7f"}},
]
WRONG: list[Json] = [
    {"description": ""},
    {"description": "d" * 141},
    {"description": "two\nlines"},
    {"description": "a\x00"},
    {"description": "del\x7f"},
    {"description": "c1\x85"},
    {"description": 1},
    {"description": ["d"]},
    {"reference": ""},
    {"reference": "r" * 65},
    {"reference": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"},
    {"reference": "tab\there"},
    {"reference": 118},
    {"metadata": []},
    {"metadata": "flat=4b"},
    {"metadata": {"": "no key"}},
    {"metadata": {"k" * 41: "v"}},
    {"metadata": {"k": "v" * 501}},
    {"metadata": {"k": 1}},
    {"metadata": {"k": None}},
    {"metadata": {"k": {"nested": "v"}}},
    {"metadata": {"k": "\x00"}},
    {"metadata": {"\x00": "v"}},
    {"metadata": {str(number): "" for number in range(21)}},
    {"metadata": {str(number): "v" * 500 for number in range(8)} | {"8": "v" * 33}},
    {"details": "none"},
]


def said_of(job: Json) -> Json:
    return {name: job[name] for name in NOTHING}


@pytest.mark.parametrize("path", MOVES)
def test_what_is_said_is_told_with_the_job(funded: FlaskClient, path: str) -> None:
    placed = answer(post(funded, path, MOVES[path] | SAID), 202 if path == TRANSFER_LATER else 200)
    job = answer(get(funded, f"{JOBS}/{placed.get('job_id') or placed['transfer_id']}"))
    assert said_of(job) == SAID
    kinds = {DEPOSIT: "deposit", WITHDRAW: "withdrawal"}
    assert job["kind"] == kinds.get(path, "transfer")


@pytest.mark.parametrize("said", LONGEST, ids=lambda said: str(said)[:40])
@pytest.mark.parametrize("path", [DEPOSIT, TRANSFER_LATER])
def test_it_may_be_as_long_as_the_contract_says(funded: FlaskClient, path: str, said: Json) -> None:
    placed = answer(post(funded, path, MOVES[path] | said), 202 if path == TRANSFER_LATER else 200)
    job = answer(get(funded, f"{JOBS}/{placed.get('job_id') or placed['transfer_id']}"))
    assert said_of(job) == NOTHING | {name: value or None for name, value in said.items()}


@pytest.mark.parametrize("said", WRONG, ids=lambda said: str(said)[:40])
@pytest.mark.parametrize("path", MOVES)
def test_anything_else_is_refused_and_moves_nothing(
    funded: FlaskClient, books: Callable[[], Any], path: str, said: Json
) -> None:
    before = books()
    (name,) = said
    assert f"body: {name}" in problem(post(funded, path, MOVES[path] | said), "bad_input")["detail"]
    assert books() == before


def test_both_see_in_their_history_what_the_payer_said(funded: FlaskClient) -> None:
    answer(post(funded, TRANSFER, MOVES[TRANSFER] | SAID | {"metadata": {}}))
    answer(post(funded, TRANSFER, MOVES[TRANSFER] | {"reference": "r"}))
    for user, default in ((1, "transfer to user 2"), (2, "transfer from user 1")):
        for type_ in (0, 3):
            plain, described = answer(get(funded, f"{HISTORY}?type={type_}&page_size=2", user=user))["transactions"]
            assert (described["desc"], described["reference"]) == (SAID["description"], SAID["reference"])
            assert (plain["desc"], plain["reference"]) == (default, "r")


def test_what_is_said_of_a_job_stays_when_it_is_posted(
    funded: FlaskClient, engine: Engine, settle: Callable[[str], None]
) -> None:
    said = {"description": "d", "reference": "r", "metadata": {"k": "v"}}
    job_id = answer(post(funded, TRANSFER_LATER, MOVES[TRANSFER_LATER] | said), 202)["job_id"]
    settle(job_id)
    job = answer(get(funded, f"{JOBS}/{job_id}", user=2))
    assert (job["status"], said_of(job)) == ("posted", said)
    events.number(engine)
    (event,) = [
        each
        for each in answer(get(funded, "/api/events/v1?page_size=100", user=ADMIN))["events"]
        if each["data"]["job_id"] == job_id
    ]
    assert event["data"] == job


@pytest.mark.parametrize("path", MOVES)
@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({}, {"description": "d"}),
        ({"description": "d"}, {"reference": "d"}),
        ({"description": "d"}, {"description": "e"}),
        ({"metadata": {"a": "b"}}, {"metadata": {"a": "c"}}),
        ({"metadata": {"a": "b"}}, {}),
    ],
)
def test_a_key_is_bound_to_what_is_said(funded: FlaskClient, path: str, first: Json, other: Json) -> None:
    status = 202 if path == TRANSFER_LATER else 200
    placed = answer(post(funded, path, MOVES[path] | first, key="k"), status)
    problem(post(funded, path, MOVES[path] | other, key="k"), "idempotency_key_reused")
    again = post(funded, path, MOVES[path] | first, key="k")
    assert (answer(again, status), again.headers["Idempotency-Replayed"]) == (placed, "true")


def test_the_order_of_pairs_is_nobodys_business(funded: FlaskClient) -> None:
    first = post(funded, DEPOSIT, MOVES[DEPOSIT] | {"metadata": {"a": "1", "b": "2"}}, key="k")
    again = post(funded, DEPOSIT, MOVES[DEPOSIT] | {"metadata": {"b": "2", "a": "1"}}, key="k")
    assert answer(first) == answer(again)
    none = post(funded, DEPOSIT, MOVES[DEPOSIT], key="none")
    assert answer(none) == answer(post(funded, DEPOSIT, MOVES[DEPOSIT] | {"metadata": {}}, key="none"))
