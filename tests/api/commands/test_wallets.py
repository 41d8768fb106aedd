"""``flask wallets``: a wallet is opened once, with money that is a deposit, and shown as the API would."""

import json
import os
import pwd

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from tests.api.calls import BALANCE, WITHDRAW, answer, balance_of, fund, get, is_id, is_instant, post, problem
from tests.api.commands.conftest import Runner, held_nodes
from tests.api.conftest import AppMaker
from tests.models.ledger.ordering import balances, transfer
from tests.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("sound_books")
MAX_INT64 = 2**63 - 1


@pytest.mark.parametrize("cents", [1, 10_000, MAX_INT64])
def test_a_wallet_is_opened_by_a_deposit(run: Runner, client: FlaskClient, cents: int) -> None:
    opened = run("wallets", "open", 7, "--amount", cents)
    assert (opened.exit_code, opened.stdout, opened.stderr) == (0, f"user 7: opened with {cents} cents\n", "")
    assert balance_of(client, 7) == cents
    shown = json.loads(run("wallets", "show", 7, "--json").stdout)
    assert [each["transaction_type"] for each in shown["transactions"]] == ["deposit"]


def test_an_empty_wallet_can_be_opened_and_be_paid_into(run: Runner, engine: Engine, snowflake: Snowflake) -> None:
    assert run("wallets", "open", 7).exit_code == 0
    assert run("wallets", "open", 8, "--amount", 5).exit_code == 0
    assert json.loads(run("wallets", "show", 7, "--json").stdout)["version"] == 0
    Orders(engine, snowflake).execute(transfer(8, 7, 5))
    assert balances(engine) == {7: 5, 8: 0}


def test_the_same_command_again_moves_nothing(run: Runner, engine: Engine) -> None:
    command = ("wallets", "open", 7, "--amount", 5)
    run(*command)
    again = run(*command)
    assert (again.exit_code, again.stdout) == (0, "user 7: opened before, nothing moved\n")
    other = run("wallets", "open", 7, "--amount", 6)
    assert (other.exit_code, other.stdout, other.stderr.count("\n")) == (1, "", 1)
    assert "used before" in other.stderr
    assert balances(engine) == {7: 5}


@pytest.mark.parametrize("arguments", [("--amount", 5), ()])
def test_a_user_who_has_a_wallet_is_refused(
    run: Runner, client: FlaskClient, engine: Engine, arguments: tuple[str | int, ...]
) -> None:
    fund(client, 7)
    refused = run("wallets", "open", 7, *arguments)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "have a wallet already" in refused.stderr
    assert balances(engine) == {7: 10_000}


@pytest.mark.parametrize(
    "arguments",
    [
        ("0",), ("-1",), ("x",), (str(MAX_INT64 + 1),), (), ("7", "--amount", "-1"), ("7", "--amount", "1.5"),
        ("7", "--amount", str(MAX_INT64 + 1)), ("7", "--idempotency-key", ""), ("7", "--idempotency-key", "x" * 256),
        ("7", "--idempotency-key", "a\nb"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_wrong_usage(run: Runner, engine: Engine, arguments: tuple[str, ...]) -> None:
    refused = run("wallets", "open", *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert balances(engine) == {}


def test_a_wallet_is_shown_with_its_newest_entries(run: Runner, client: FlaskClient) -> None:
    for amount in (1, 2, 3):
        fund(client, 7, amount=amount)
    shown = json.loads(run("wallets", "show", 7, "--entries", 2, "--json").stdout)
    entries = shown.pop("transactions")
    assert is_instant(shown.pop("opened_at"))
    assert shown == {"user_id": "7", "balance": 6, "version": 3, "frozen": None}
    assert [(each["transaction_id"], each["amount"], each["balance_after"]) for each in entries] == [
        ("7-3", 3, 6),
        ("7-2", 2, 3),
    ]
    assert all(is_id(each["transfer_id"]) for each in entries)
    assert json.loads(run("wallets", "show", 7, "--entries", 0, "--json").stdout)["transactions"] == []


def test_a_wallet_is_shown_to_people_as_lines(run: Runner, client: FlaskClient) -> None:
    fund(client, 7, amount=5)
    facts, _, table = run("wallets", "show", 7).stdout.partition("\n\n")
    assert [line.split()[:2] for line in facts.splitlines()][:3] == [
        ["user_id", "7"],
        ["balance", "5"],
        ["version", "1"],
    ]
    header, entry = (line.split("\t") for line in table.splitlines())
    assert dict(zip(header, entry, strict=True))["transaction_id"] == "7-1"


def test_a_user_without_a_wallet_is_one_line(run: Runner) -> None:
    shown = run("wallets", "show", 7)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (1, "", "Error: The user has no wallet. (wallet_id=7)\n")


def test_with_postgresql_gone_nothing_moves_and_one_line_says_why(
    run: Runner, make_app: AppMaker, postgres_proxy: TcpProxy
) -> None:
    postgres_proxy.refuse()
    for arguments in (("open", 7, "--amount", 5), ("show", 7)):
        gone = run("wallets", *arguments, app=make_app(database_url=postgres_proxy.url))
        assert (gone.exit_code, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)
    assert run("wallets", "open", 7, "--amount", 5).stdout == "user 7: opened with 5 cents\n"


def test_the_node_that_ids_came_from_is_given_back(run: Runner, app: Flask, engine: Engine) -> None:
    before = held_nodes(engine)
    run("wallets", "open", 7, "--amount", 5)
    assert app.extensions["wallet"].snowflake.lease.node is None
    assert held_nodes(engine) == before


def test_a_wallet_is_frozen_and_let_go(run: Runner, client: FlaskClient) -> None:
    fund(client, 7)
    assert json.loads(run("wallets", "show", 7, "--json").stdout)["frozen"] is None
    for said in ("frozen", "frozen before"):
        assert run("wallets", "freeze", 7, "--debits", "--reason", "ä why").stdout == f"user 7: {said}\n"
    problem(post(client, WITHDRAW, {"amount": 1}, user=7), "wallet_frozen")
    shown = json.loads(run("wallets", "show", 7, "--json").stdout)["frozen"]
    assert is_instant(shown.pop("at"))
    who = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert shown == {"debits": True, "credits": False, "reason": "ä why", "by": who}
    assert "ä" not in run("wallets", "show", 7).stdout  # a terminal sees ASCII of what somebody wrote
    run("wallets", "freeze", 7, "--credits", "--reason", "more")
    assert run("wallets", "unfreeze", 7, "--debits").stdout == "user 7: let go\n"
    assert answer(get(client, BALANCE, user=7)) == {"balance": 10_000, "frozen": {"debits": False, "credits": True}}
    for said in ("let go", "not frozen"):
        assert run("wallets", "unfreeze", 7, "--reason", "over").stdout == f"user 7: {said}\n"
    assert answer(get(client, BALANCE, user=7)) == {"balance": 10_000}


@pytest.mark.parametrize(
    "arguments",
    [
        ("freeze", "7", "--reason", "why"), ("freeze", "7", "--debits"), ("freeze", "7", "--debits", "--reason", ""),
        ("freeze", "7", "--debits", "--reason", "a\nb"), ("freeze", "7", "--debits", "--reason", "x" * 501),
        ("freeze", "0", "--debits", "--reason", "why"), ("unfreeze", "x"), ("unfreeze", "7", "--reason", ""),
    ],
)  # fmt: skip
def test_what_makes_no_sense_freezes_nothing(run: Runner, client: FlaskClient, arguments: tuple[str, ...]) -> None:
    fund(client, 7)
    assert run("wallets", *arguments).exit_code == 2
    assert answer(get(client, BALANCE, user=7)) == {"balance": 10_000}


@pytest.mark.parametrize("arguments", [("freeze", "9", "--debits", "--reason", "why"), ("unfreeze", "9")])
def test_a_wallet_that_does_not_exist_is_not_frozen(run: Runner, arguments: tuple[str, ...]) -> None:
    refused = run("wallets", *arguments)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
