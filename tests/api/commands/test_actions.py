"""``flask actions``: what administrators did, by commands as well, each under the name of who ran it."""

import json
import os
import pwd
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.api.calls import ADMIN, ask
from tests.api.commands.conftest import Runner
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy


def shown(run: Runner) -> list[tuple[str, ...]]:
    """What stands in the record, oldest first, without the times."""
    lines = run("actions", "--limit", 100, "--json").stdout.splitlines()
    acts = [json.loads(line) for line in reversed(lines)]
    return [tuple(each[name] for name in ("who", "what", "on", "from", "outcome")) for each in acts]


def test_each_command_that_changes_something_leaves_a_line(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    file = tmp_path / "wallets.csv"
    file.write_text("user_id,balance\n8,5\n")
    run("wallets", "open", 7, "--amount", 5)
    run("wallets", "open", 7, "--amount", 5)
    run("wallets", "open", 7, "--amount", 6)
    run("import", file, "--import-id", "first", "--dry-run")
    run("import", file, "--import-id", "first")
    run("import", file, "--import-id", "other")
    run("dead-letters", "requeue", "1")
    run("dead-letters", "requeue", "--all")
    run("audit")
    run("wallets", "freeze", 7, "--debits", "--reason", "why")
    run("wallets", "unfreeze", 9)
    who = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert shown(run) == [
        (who, "wallet.open", "7", "command line", "done"),
        (who, "wallet.open", "7", "command line", "unchanged"),
        (who, "wallet.open", "7", "command line", "refused"),
        (who, "wallet.import", "first", "command line", "done"),
        (who, "wallet.import", "other", "command line", "refused"),
        (who, "dead_letter.requeue", "1", "command line", "job_not_found"),
        (who, "dead_letter.requeue_all", "all", "command line", "unchanged"),
        (who, "audit.run", "all", "command line", "done"),
        (who, "wallet.freeze", "7", "command line", "done"),
        (who, "wallet.unfreeze", "9", "command line", "wallet_not_found"),
    ]


def test_what_only_looks_leaves_none(run: Runner) -> None:
    run("wallets", "open", 7)
    for command in (["wallets", "show", 7], ["dead-letters", "list"], ["actions"], ["doctor"]):
        run(*command)
    assert len(shown(run)) == 1


def test_a_user_without_a_name_has_his_number(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_123)
    run("wallets", "open", 7)
    assert [who for who, *_ in shown(run)] == ["cli:2000000123"]


def test_an_audit_that_cannot_run_says_so_in_the_record(make_app: AppMaker, run: Runner, redis_proxy: TcpProxy) -> None:
    app = make_app(redis_url=redis_proxy.url)
    redis_proxy.refuse()
    assert run("audit", app=app).exit_code == 2
    assert [outcome for *_, outcome in shown(run)] == ["unavailable"]


def test_they_are_shown_newest_first_and_how_many_are_said(run: Runner, client: FlaskClient) -> None:
    run("wallets", "open", 7)
    ask(client, "POST", "/api/dead-letters/v1/requeue", user=ADMIN)
    table = run("actions").stdout.splitlines()
    assert table[0].split("\t") == ["at", "who", "what", "on", "from", "outcome"]
    assert [line.split("\t")[2] for line in table[1:]] == ["dead_letter.requeue_all", "wallet.open"]
    one = run("actions", "--limit", 1)
    assert (len(one.stdout.splitlines()), one.stderr.count("more than 1")) == (2, 1)
