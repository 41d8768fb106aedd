"""The balance at an instant is what it was; a statement is what the command line writes, whole or known for a part."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, event

from api.actions import statements as sending
from api.actions.statements import MOST_DAYS, BrokenOff
from api.services import MOST_STATEMENTS
from models.ledger import statements
from tests.api.calls import (
    ADMIN,
    BALANCE,
    HISTORY,
    TRANSFER,
    WITHDRAW,
    Json,
    answer,
    ask,
    balance_of,
    basic,
    fund,
    get,
    post,
    problem,
    undocumented,
)  # fmt: skip
from tests.models.ledger.archiving import age, archive
from tests.proxy import TcpProxy

STATEMENTS = "/api/statements/v1"
TODAY = datetime.now(UTC).date()
DAYS = f"from={TODAY - timedelta(days=1)}&to={TODAY + timedelta(days=1)}"


def balance_at(client: FlaskClient, instant: datetime | str, *, user: int = 1) -> int:
    spelled = instant if isinstance(instant, str) else instant.isoformat()
    found: int = answer(get(client, f"{BALANCE}?at={quote(spelled)}", user=user))["balance"]
    return found


# The balance then


def test_the_balance_at_an_instant_has_all_that_was_posted_by_then(funded: FlaskClient) -> None:
    answer(post(funded, TRANSFER, {"destination_user_id": 2, "amount": 30}))
    answer(post(funded, WITHDRAW, {"amount": 7}))
    history = answer(get(funded, HISTORY))["transactions"]
    assert len(history) == 3
    for entry in history:
        instant = datetime.fromisoformat(entry["created_at"])
        assert balance_at(funded, entry["created_at"]) == entry["balance_after"]
        assert balance_at(funded, instant - timedelta(microseconds=1)) == entry["balance_after"] - entry["amount"]
    assert balance_at(funded, datetime.now(UTC)) == balance_of(funded, 1) == 9_963
    assert balance_at(funded, "2026-01-01T00:00:00+14:00") == 0


def test_the_future_has_no_balance(funded: FlaskClient) -> None:
    ahead = quote((datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert "future" in problem(get(funded, f"{BALANCE}?at={ahead}"), "bad_input")["detail"]


@pytest.mark.parametrize("query", ["at=", "at=now", "at=2026-11-01", "at=2026-11-01T00:00:00+01:00", "at=1", "to=1"])
def test_what_is_no_instant_is_refused(funded: FlaskClient, query: str) -> None:
    """A plus that is not spelled %2B is a blank."""
    problem(get(funded, f"{BALANCE}?{query}"), "bad_input")


def test_a_query_of_nothing_is_the_balance_now(funded: FlaskClient) -> None:
    assert answer(get(funded, f"{BALANCE}?"))["balance"] == answer(get(funded, f"{BALANCE}?&"))["balance"] == 10_000


def test_there_is_no_balance_at_any_time_without_a_wallet(client: FlaskClient) -> None:
    problem(get(client, f"{BALANCE}?at=2026-01-01T00:00:00Z"), "wallet_not_found")
    problem(get(client, f"{BALANCE}?at=2026-01-01T00:00:00Z", user=ADMIN), "unauthorized")


def test_what_has_left_is_told_with_its_last_day(client: FlaskClient, engine: Engine, tmp_path: Path) -> None:
    fund(client, 1, amount=100)
    age(engine, at=datetime(2026, 1, 31, tzinfo=UTC))
    archive(engine, tmp_path, datetime(2026, 2, 1, tzinfo=UTC))
    then = problem(get(client, f"{BALANCE}?at=2026-01-31T00:00:00Z"), "entries_left")
    assert "up to 2026-01-31" in then["detail"]
    assert balance_at(client, "2026-02-01T00:00:00Z") == 100
    days = problem(get(client, f"{STATEMENTS}?from=2026-01-31&to=2026-02-28"), "entries_left")
    assert "up to 2026-01-31" in days["detail"]
    assert statement(client, "from=2026-02-01&to=2026-02-28")["opening_balance"] == 100


# Statements


@pytest.fixture
def history(funded: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """User 1's history, oldest first, of more than a slice and more than a piece."""
    monkeypatch.setattr(statements, "SLICE", 2)
    monkeypatch.setattr(sending, "PIECE", 10)
    answer(post(funded, TRANSFER, {"destination_user_id": 2, "amount": 30, "description": "=1+1"}))
    answer(post(funded, TRANSFER, {"destination_user_id": 1, "amount": 5}, user=2))
    answer(post(funded, WITHDRAW, {"amount": 7}))
    return list(reversed(answer(get(funded, HISTORY))["transactions"]))


def statement(client: FlaskClient, query: str, *, user: int | str = 1) -> Json:
    return answer(get(client, f"{STATEMENTS}?{query}", user=user))


def test_json_has_the_history_between_two_balances(funded: FlaskClient, history: list[Json]) -> None:
    first, last = TODAY - timedelta(days=1), TODAY + timedelta(days=1)
    assert statement(funded, DAYS) == {
        "user_id": "1", "from": str(first), "to": str(last), "opening_balance": 0, "closing_balance": 9_968,
        "transactions": history,
    }  # fmt: skip
    before = statement(funded, "from=2026-01-01&to=2026-01-31")
    assert (before["opening_balance"], before["closing_balance"], before["transactions"]) == (0, 0, [])


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_it_is_what_the_command_line_writes(app: Flask, funded: FlaskClient, history: list[Json], kind: str) -> None:
    del history
    first, last = (day.partition("=")[2] for day in DAYS.split("&"))
    written = app.test_cli_runner().invoke(
        args=["statement", "--user", "1", "--from", first, "--to", last, "--format", kind]
    )
    sent = get(funded, f"{STATEMENTS}?{DAYS}&format={kind}")
    assert (written.exit_code, sent.status_code) == (0, 200)
    assert sent.text == written.stdout
    assert sent.headers["Content-Disposition"] == f'attachment; filename="statement-1-{first}-{last}.{kind}"'


def test_csv_is_text_that_no_spreadsheet_runs(funded: FlaskClient, history: list[Json]) -> None:
    sent = get(funded, f"{STATEMENTS}?{DAYS}&format=csv")
    assert sent.content_type == "text/csv; charset=utf-8"
    opening, *rows, closing = csv.DictReader(io.StringIO(sent.text), strict=True)
    assert [row["transaction_id"] for row in rows] == [each["transaction_id"] for each in history]
    assert "'=1+1" in {row["desc"] for row in rows}
    assert (opening["balance_after"], closing["balance_after"]) == ("0", "9968")


def test_administrators_have_to_say_whose(funded: FlaskClient, history: list[Json]) -> None:
    assert statement(funded, f"{DAYS}&user_id=1", user=ADMIN)["transactions"] == history
    problem(get(funded, f"{STATEMENTS}?{DAYS}", user=ADMIN), "bad_input")
    problem(get(funded, f"{STATEMENTS}?{DAYS}&user_id=9", user=ADMIN), "wallet_not_found")
    problem(get(funded, f"{STATEMENTS}?{DAYS}&user_id=2"), "bad_input")


@pytest.mark.parametrize("credentials", [None, "x", basic("admin", "wrong")])
def test_nobody_else_may_have_one(client: FlaskClient, credentials: str | None) -> None:
    problem(ask(client, "GET", f"{STATEMENTS}?{DAYS}", user=credentials), "unauthorized")
    problem(get(client, f"{STATEMENTS}?{DAYS}"), "wallet_not_found")


@pytest.mark.parametrize(
    "query",
    [
        "", "from=2026-11-01", "to=2026-11-01", "from=2026-11-02&to=2026-11-01", "from=2026-11-1&to=2026-11-02",
        "from=20261101&to=20261102", "from=2026-02-30&to=2026-03-01", "from=2026-11-01T00:00:00Z&to=2026-11-02",
        "from_=2026-11-01&to=2026-11-02", f"{DAYS}&format=pdf", f"{DAYS}&format=", f"{DAYS}&page=1",
        "from=2025-01-01&to=2026-01-02",
    ],
)  # fmt: skip
def test_what_are_no_days_is_refused(funded: FlaskClient, query: str) -> None:
    problem(get(funded, f"{STATEMENTS}?{query}"), "bad_input")


def test_it_may_be_of_a_whole_year(funded: FlaskClient) -> None:
    first = date(2028, 1, 1)
    last = first + timedelta(days=MOST_DAYS - 1)
    assert last == date(2028, 12, 31)
    assert statement(funded, f"from={first}&to={last}")["transactions"] == []


@pytest.fixture
def breaking(app: Flask) -> Iterator[list[int]]:
    """Break the reads of slices whose numbers, from 1 on, are in the list."""
    engine: Engine = app.extensions["wallet"].engine
    numbers, reads = list[int](), 0

    def break_off(_conn: object, _cursor: object, asked: str, parameters: object, *_: object) -> tuple[str, object]:
        nonlocal reads
        reads += "seq <" in asked
        return ("SELECT 1/0", {}) if "seq <" in asked and reads in numbers else (asked, parameters)

    event.listen(engine, "before_cursor_execute", break_off, retval=True)
    yield numbers
    event.remove(engine, "before_cursor_execute", break_off)


def seats(app: Flask) -> int:
    return int(app.extensions["wallet"].statement_seats._free._value)


def test_what_breaks_before_anything_was_sent_is_a_problem(
    app: Flask, funded: FlaskClient, history: list[Json], breaking: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1_000)  # more than the balance before
    breaking.append(1)
    problem(get(funded, f"{STATEMENTS}?{DAYS}"), "unavailable")
    assert seats(app) == MOST_STATEMENTS
    assert statement(funded, DAYS)["transactions"] == history


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_what_breaks_later_ends_without_its_end(
    app: Flask, history: list[Json], breaking: list[int], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of two slices the first was sent."""
    assert len(history) == 4
    breaking.append(2)
    sent = undocumented(app).get(f"{STATEMENTS}?{DAYS}&format={kind}", headers={"Authorization": "1"})
    assert sent.status_code == 200
    pieces = list[bytes]()
    with pytest.raises(BrokenOff):
        pieces.extend(sent.iter_encoded())
    received = b"".join(pieces)
    assert history[1]["transfer_id"].encode() in received
    assert history[2]["transfer_id"].encode() not in received
    assert not received.endswith(b"]}\n")
    assert b"closing_balance" not in received or kind == "json"
    assert seats(app) == MOST_STATEMENTS
    assert "a statement is broken off" in capfd.readouterr().out


def test_so_many_are_sent_at_once(app: Flask, funded: FlaskClient, history: list[Json]) -> None:
    held = [
        undocumented(app).get(f"{STATEMENTS}?{DAYS}", headers={"Authorization": "1"}) for _ in range(MOST_STATEMENTS)
    ]
    problem(get(funded, f"{STATEMENTS}?{DAYS}"), "unavailable")
    held[0].close()  # its client has gone
    assert statement(funded, DAYS)["transactions"] == history
    for each in held:
        each.close()
    assert seats(app) == MOST_STATEMENTS


def test_who_asks_for_the_head_alone_takes_no_seat(app: Flask, funded: FlaskClient, history: list[Json]) -> None:
    del history
    assert ask(funded, "HEAD", f"{STATEMENTS}?{DAYS}").status_code == 200
    assert seats(app) == MOST_STATEMENTS


def test_with_postgresql_gone_there_is_neither(cut_client: FlaskClient, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    problem(get(cut_client, f"{BALANCE}?at=2026-11-01T00:00:00Z"), "unavailable")
    problem(get(cut_client, f"{STATEMENTS}?{DAYS}"), "unavailable")
