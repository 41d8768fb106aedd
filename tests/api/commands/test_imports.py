"""``flask import``: a file is checked whole, and opens all of its wallets or none."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from tests.api.calls import balance_of, fund
from tests.api.commands.conftest import Runner, held_nodes
from tests.api.conftest import AppMaker
from tests.models.ledger.ordering import balances
from tests.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("sound_books")
CSV = "user_id,balance\r\n7,100\r\n8,0\r\n9,5\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "wallets.csv"
    path.write_text(CSV, newline="")
    return path


def test_a_file_opens_its_wallets_once(run: Runner, client: FlaskClient, file: Path, engine: Engine) -> None:
    done = run("import", file)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("opened 3 wallets with 105 cents (import id ")
    assert [balance_of(client, user) for user in (7, 8, 9)] == [100, 0, 5]
    file.write_text("\ufeffuser_id,balance\n9,5\n8,0\n7,100")
    again = run("import", file)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout == done.stdout.replace("opened", "done before, nothing moved:")
    assert balances(engine) == {7: 100, 8: 0, 9: 5}


def test_standard_input_is_a_file_too(run: Runner, engine: Engine) -> None:
    assert run("import", "-", stdin=CSV).exit_code == 0
    assert balances(engine) == {7: 100, 8: 0, 9: 5}


def test_a_dry_run_says_what_would_be_and_writes_nothing(run: Runner, file: Path, engine: Engine) -> None:
    tried = run("import", file, "--dry-run")
    assert (tried.exit_code, tried.stdout.partition(" (")[0]) == (0, "would open 3 wallets with 105 cents")
    assert balances(engine) == {}


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_all_that_is_wrong_is_told_with_its_lines_and_nothing_moves(
    run: Runner, file: Path, engine: Engine, options: tuple[str, ...]
) -> None:
    file.write_text("user_id,balance\n1,5\n2,-1\n1,5\n" + "x,1\n" * 100)
    refused = run("import", file, *options)
    assert (refused.exit_code, refused.stdout) == (1, "")
    lines = refused.stderr.splitlines()
    assert lines[0].startswith(f"{file}:3: balance: ")
    assert lines[1] == f"{file}:4: user_id: 1 stands in line 2 already"
    assert lines[-2:] == ["(and 82 more)", f"Error: {file} is not imported, nothing moved"]
    assert len(lines) == 22
    assert balances(engine) == {}


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--import-id", "x")])
def test_a_wallet_that_exists_refuses_all_in_one_line(
    run: Runner, client: FlaskClient, file: Path, engine: Engine, options: tuple[str, ...]
) -> None:
    fund(client, 9)
    refused = run("import", file, *options)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr == "Error: Some of the users have a wallet already; nothing moved. (count=1, users=9)\n"
    assert balances(engine) == {9: 10_000}


def test_an_import_id_stands_for_its_rows(run: Runner, file: Path, engine: Engine) -> None:
    assert "(import id june)" in run("import", file, "--import-id", "june").stdout
    assert run("import", file, "--import-id", "june").stdout.startswith("done before")
    file.write_text(CSV.replace("100", "101"))
    refused = run("import", file, "--import-id", "june")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "used before" in refused.stderr
    assert balances(engine) == {7: 100, 8: 0, 9: 5}


def test_with_postgresql_gone_one_line_says_so(
    run: Runner, make_app: AppMaker, postgres_proxy: TcpProxy, file: Path, engine: Engine
) -> None:
    postgres_proxy.refuse()
    gone = run("import", file, app=make_app(database_url=postgres_proxy.url))
    assert (gone.exit_code, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)
    assert balances(engine) == {}


@pytest.mark.parametrize("arguments", [(), ("none.csv",), ("-", "--import-id", ""), ("-", "--import-id", "x" * 201)])
def test_what_makes_no_sense_is_wrong_usage(run: Runner, engine: Engine, arguments: tuple[str, ...]) -> None:
    refused = run("import", *arguments, stdin=CSV)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert balances(engine) == {}


def test_the_node_that_ids_came_from_is_given_back(run: Runner, app: Flask, file: Path, engine: Engine) -> None:
    before = held_nodes(engine)
    run("import", file)
    assert app.extensions["wallet"].snowflake.lease.node is None
    assert held_nodes(engine) == before
