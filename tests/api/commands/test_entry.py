"""``python -m flask …`` as users run it: help without a service, servers found, answers alone on standard output."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, insert, text

from models.schema.tables import entries, wallets
from tests import nursery
from tests.api.calls import accept
from tests.api.commands.conftest import Process, Runner
from tests.models.ledger.ordering import balances
from tests.nursery import Forked
from tests.project import ROOT

COMMANDS = [
    ["wallets", "open"],
    ["wallets", "show"],
    ["transfers", "show"],
    ["transfers", "watch"],
    ["statement"],
    ["import"],
    ["bulk"],
    ["doctor"],
]


@pytest.fixture
def urls(database_url: str, redis_url: str) -> dict[str, str]:
    """The environment of a command on this test run's servers."""
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url}


def write_state(home: Path, urls: dict[str, str]) -> Path:
    """Say what is up as a local stack does."""
    state = home / "run" / "stack.json"
    state.parent.mkdir(parents=True)
    state.touch(mode=0o600)
    state.write_text(json.dumps({"postgres": {"url": urls["DATABASE_URL"]}, "redis": {"url": urls["REDIS_URL"]}}))
    return state


def test_help_needs_no_service_and_lists_every_command(flask: Process) -> None:
    for arguments in ([], ["--help"]):
        listed = flask(*arguments)
        assert listed.returncode in {0, 2}  # 2: nothing was asked
        assert {name for name, *_ in COMMANDS} <= set((listed.stdout + listed.stderr).split())
        assert "error" not in listed.stderr


def test_the_help_of_a_command_needs_no_service_either(flask: Process) -> None:
    shown = flask("wallets", "open", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_examples_and_says_what_its_exit_status_means(run: Runner, command: list[str]) -> None:
    shown = run(*command, "--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"  flask {' '.join(command)}" in shown.stdout
    assert "Exit status: 0 " in shown.stdout


def test_without_a_service_one_line_says_so(flask: Process) -> None:
    refused = flask("wallets", "show", "1")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith("configuration error: DATABASE_URL: not set, and nothing runs in WALLET_HOME=")


def test_a_service_that_runs_here_is_found(
    flask: Process, urls: dict[str, str], engine: Engine, tmp_path: Path
) -> None:
    write_state(tmp_path / "here", urls)
    here = {"WALLET_HOME": str(tmp_path / "here")}
    opened = flask("wallets", "open", "7", "--amount", "5", **here)
    assert (opened.returncode, opened.stdout, opened.stderr) == (0, "user 7: opened with 5 cents\n", "")
    # One of the two given, the other found: only if they belong together.
    assert flask("wallets", "show", "7", **here, REDIS_URL=urls["REDIS_URL"]).returncode == 0
    refused = flask("wallets", "show", "7", **here, DATABASE_URL="postgresql://elsewhere/wallet")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("configuration error: REDIS_URL: not set, and what runs in WALLET_HOME=")
    assert balances(engine) == {7: 5}


@pytest.mark.parametrize("spoil", [lambda state: state.chmod(0o644), lambda state: state.write_text("{}")])
def test_what_others_could_have_written_or_nobody_can_read_is_not_believed(
    flask: Process, urls: dict[str, str], tmp_path: Path, spoil: object
) -> None:
    state = write_state(tmp_path / "here", urls)
    spoil(state)  # type: ignore[operator]
    refused = flask("wallets", "show", "7", WALLET_HOME=str(tmp_path / "here"))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert str(state) in refused.stderr


@pytest.mark.parametrize(
    "entry", [["-c", "import wsgi"], ["worker.py"], ["-m", "flask", "run"]], ids=["gunicorn", "worker", "flask run"]
)
def test_a_service_does_not_look_for_servers(urls: dict[str, str], tmp_path: Path, entry: list[str]) -> None:
    write_state(tmp_path / "here", urls)
    environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(tmp_path / "here")}
    ended = nursery.run([sys.executable, *entry], cwd=ROOT, env=environment, text=True)
    assert ended.returncode == 2
    assert "configuration error: DATABASE_URL: Field required" in ended.stderr


def test_log_lines_do_not_mix_with_the_answer(
    flask: Process, urls: dict[str, str], funded: FlaskClient, engine: Engine
) -> None:
    job_id = accept(funded)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET status = 'failed', reason = 'x', completed_at = now() WHERE id = :id"),
            {"id": int(job_id)},
        )
    requeued = flask("dead-letters", "requeue", job_id, **urls)
    assert (requeued.returncode, requeued.stdout) == (0, f"{job_id}\trequeued\n")
    (line,) = requeued.stderr.splitlines()
    assert json.loads(line)["event"] == "dead letter requeued"
    assert json.loads(line)["service"] == "command"


def test_a_terminal_sees_how_far_an_import_is(urls: dict[str, str], engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "wallets.csv"
    file.write_text("user_id,balance\n7,5\n")
    terminal, other_end = pty.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "flask", "import", str(file)],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "TERM": "xterm", **urls}, stdout=subprocess.PIPE,
            stderr=other_end, timeout=60, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout.startswith(b"opened 1 wallets")) == (0, True)
        assert b"100%" in os.read(terminal, 65_536)
    finally:
        os.close(terminal)
        os.close(other_end)
    assert balances(engine) == {7: 5}


def test_a_reader_who_has_had_enough_ends_a_statement_quietly(urls: dict[str, str], engine: Engine) -> None:
    rows = [
        {"wallet_id": 7, "seq": n, "transfer_id": n, "type": 1, "amount": 1, "balance_after": n}
        for n in range(1, 5_001)
    ]
    with engine.begin() as connection:
        connection.execute(insert(wallets).values(id=7, balance=5_000, version=5_000))
        connection.execute(insert(entries), rows)
    arguments = ["statement", "--user", "7", "--from", "2026-01-01", "--to", "9999-12-31"]
    process = Forked(
        [sys.executable, "-m", "flask", *arguments], cwd=ROOT, env={"PATH": os.environ["PATH"], **urls},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"transaction_id,")
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in {1, -signal.SIGPIPE}
    assert said == b""
