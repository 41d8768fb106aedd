"""``flask statement``: a file that a spreadsheet and a program read the same in, whole or not there."""

import csv
import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from flask.testing import FlaskClient
from sqlalchemy import Engine, event

from api.contract.statement_file import FORMULA_MARKS, _cell
from models.ledger import statements
from tests.api.calls import HISTORY, TRANSFER, WITHDRAW, Json, answer, fund, get, post
from tests.api.commands.conftest import Runner
from tests.models.ledger.archiving import age, archive

TODAY = datetime.now(UTC).date().isoformat()
DAYS = ("--from", "2026-01-01", "--to", "9999-12-31")


@pytest.fixture
def history(funded: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """User 1's history as the API tells it, oldest first, of more than a slice."""
    monkeypatch.setattr(statements, "SLICE", 2)
    answer(post(funded, TRANSFER, {"destination_user_id": 2, "amount": 30}))
    answer(post(funded, TRANSFER, {"destination_user_id": 1, "amount": 5}, user=2))
    answer(post(funded, WITHDRAW, {"amount": 7}))
    found = answer(get(funded, HISTORY))["transactions"]
    assert len(found) == 4
    return list(reversed(found))


def rows_of(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0
    return list(csv.DictReader(io.StringIO(result.stdout), strict=True))


def test_csv_has_the_history_between_two_balances(run: Runner, history: list[Json]) -> None:
    opening, *rows, closing = rows_of(run("statement", "--user", 1, *DAYS))
    assert rows == [{name: "" if value is None else str(value) for name, value in each.items()} for each in history]
    assert [each["transaction_type"] for each in (opening, closing)] == ["opening_balance", "closing_balance"]
    assert (opening["balance_after"], opening["created_at"]) == ("0", "2026-01-01")
    assert (closing["balance_after"], closing["created_at"]) == ("9968", "9999-12-31")
    assert opening["amount"] == closing["amount"] == ""


def test_json_has_the_history_a_line_for_each_entry(run: Runner, history: list[Json]) -> None:
    written = run("statement", "--user", 1, *DAYS, "--format", "json")
    assert written.exit_code == 0
    assert len(written.stdout.splitlines()) == len(history) + 2
    assert json.loads(written.stdout) == {
        "user_id": "1", "from": "2026-01-01", "to": "9999-12-31", "opening_balance": 0, "closing_balance": 9_968,
        "transactions": history,
    }  # fmt: skip


def test_the_days_decide_what_is_in_it(run: Runner, history: list[Json]) -> None:
    del history
    before = json.loads(
        run("statement", "--user", 1, "--from", "2026-01-01", "--to", "2026-01-31", "--format", "json").stdout
    )
    assert (before["opening_balance"], before["closing_balance"], before["transactions"]) == (0, 0, [])
    after = json.loads(
        run("statement", "--user", 1, "--from", "9999-01-01", "--to", "9999-01-31", "--format", "json").stdout
    )
    assert (after["opening_balance"], after["closing_balance"], after["transactions"]) == (9_968, 9_968, [])


def test_a_file_is_its_owners_alone_and_says_nothing_on_the_way(
    run: Runner, history: list[Json], tmp_path: Path
) -> None:
    output = tmp_path / "statement.csv"
    output.write_text("an older one")
    written = run("statement", "--user", 1, *DAYS, "--output", output)
    assert (written.exit_code, written.stdout, written.stderr) == (0, "", "")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert len(output.read_text().splitlines()) == len(history) + 3
    assert [each.name for each in tmp_path.iterdir()] == ["statement.csv"]


def test_a_statement_that_breaks_off_leaves_the_file_as_it_was(
    run: Runner, history: list[Json], tmp_path: Path, app: object
) -> None:
    del history
    output = tmp_path / "statement.csv"
    output.write_text("an older one")
    engine: Engine = app.extensions["wallet"].engine  # type: ignore[attr-defined]
    reads = 0

    def break_the_second_slice(
        _conn: object, _cursor: object, statement: str, parameters: object, *_: object
    ) -> tuple[str, object]:
        nonlocal reads
        reads += "seq <" in statement
        return ("SELECT 1/0", {}) if reads == 2 else (statement, parameters)

    event.listen(engine, "before_cursor_execute", break_the_second_slice, retval=True)
    broken = run("statement", "--user", 1, *DAYS, "--output", output)
    assert (broken.exit_code, broken.stdout, broken.stderr.count("\n")) == (1, "", 1)
    assert "division by zero" in broken.stderr
    assert output.read_text() == "an older one"
    assert [each.name for each in tmp_path.iterdir()] == ["statement.csv"]


def test_what_is_no_file_is_written_to_and_not_replaced(run: Runner, history: list[Json]) -> None:
    del history
    assert run("statement", "--user", 1, *DAYS, "--output", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_is_not_there_is_one_line(run: Runner, history: list[Json], tmp_path: Path) -> None:
    del history
    refused = run("statement", "--user", 1, *DAYS, "--output", tmp_path / "none" / "statement.csv")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)


def test_a_user_without_a_wallet_is_one_line_and_no_file(run: Runner, tmp_path: Path) -> None:
    refused = run("statement", "--user", 9, *DAYS, "--output", tmp_path / "statement.csv")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "2026-11-02", "--to", "2026-11-01"), ("--from", "yesterday", "--to", TODAY), ("--from", TODAY),
        ("--to", TODAY), ("--from", "2026-02-30", "--to", TODAY), ("--from", TODAY, "--to", TODAY, "--format", "pdf"),
        ("--from", f"{TODAY}T00:00:00", "--to", TODAY),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_wrong_usage(run: Runner, client: FlaskClient, arguments: tuple[str, ...]) -> None:
    fund(client, 1)
    refused = run("statement", "--user", 1, *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.parametrize("mark", FORMULA_MARKS)
def test_no_text_is_taken_for_a_formula(mark: str) -> None:
    assert _cell(f"{mark}cmd|' /C calc'!A0") == f"'{mark}cmd|' /C calc'!A0"
    assert (_cell(-67), _cell("transfer to user 2"), _cell(None)) == (-67, "transfer to user 2", None)


@pytest.mark.usefixtures("history")
def test_days_that_have_left_are_refused_in_a_line_and_the_file_stays(
    run: Runner, engine: Engine, tmp_path: Path
) -> None:
    age(engine, "seq <= 2")
    archive(engine, tmp_path / "archives")
    file = tmp_path / "statement.csv"
    file.write_text("as before")
    refused = run("statement", "--user", 1, *DAYS, "--output", file)
    assert (refused.exit_code, refused.stdout, refused.stderr) == (
        1,
        "",
        "Error: Entries of this time have left the database for an archive. (wallet_id=1, last_day=2026-02-01)\n",
    )
    assert file.read_text() == "as before"
    opening, *rows, closing = rows_of(run("statement", "--user", 1, "--from", TODAY, "--to", TODAY))
    assert (opening["balance_after"], len(rows), closing["balance_after"]) == ("9970", 2, "9968")
