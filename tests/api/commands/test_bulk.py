"""``flask bulk``: a file is checked whole, sent once whatever is killed, seen through, and reported line by line."""

import csv
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.commands import bulk
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from models.ledger import bulks
from ops.local.processes import wait_for
from tests import nursery
from tests.api.calls import JOBS, answer, balance_of, get
from tests.api.commands.conftest import Runner
from tests.api.conftest import AppMaker
from tests.jobs.conftest import DELAYS_S
from tests.models.ledger.ordering import balances, bounded_engine, count_transfers
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT
from tests.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("sound_books", "funded")
DEPOSITS = 2  # those of the wallets of users 1 and 2
# A line whose payee has no wallet, and one that is not covered, among others.
CSV = "destination_user_id,amount\n2,10\n9,10\n\n2,20\n2,9999\n2,30\n2,40\n2,50\n"
REPORT = [
    ("2", "posted", ""), ("3", "rejected", "wallet_not_found"), ("5", "posted", ""),
    ("6", "rejected", "balance_insufficient"), ("7", "posted", ""), ("8", "posted", ""), ("9", "posted", ""),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "payouts.csv"
    path.write_text(CSV)
    return path


@pytest.fixture
def worker(engine: Engine, database_url: str) -> Iterator[None]:
    """Somebody who settles whatever is pending."""
    is_over = Event()

    def work() -> None:
        with bounded_engine(database_url) as own:
            settler = Settler(own, RetryPolicy(DELAYS_S))
            while not is_over.wait(0.02):
                if ids := pending(engine):
                    settler.settle(ids)

    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(work)
        yield
        is_over.set()
        working.result(PATIENCE_S)


def pending(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        query = text("SELECT id FROM transfers WHERE status = 'pending' ORDER BY id LIMIT 1000")
        return list(connection.execute(query).scalars())


def report(file: Path) -> list[tuple[str, ...]]:
    """What the report says of each line, without the transfers' ids."""
    return [(row["line"], row["status"], row["reason"]) for row in rows(file)]


def rows(file: Path) -> list[dict[str, str]]:
    with file.with_suffix(".report.csv").open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.usefixtures("worker")
def test_a_file_is_sent_with_all_that_there_is_to_say(run: Runner, client: FlaskClient, file: Path) -> None:
    file.write_text(
        '\ufeffamount,destination_user_id,description,metadata.order,reference\r\n67, 2 ,"rent, paid",17,INV-1\r\n'
        "1,2,,,\r\n"
    )
    done = run("bulk", file, "--user", 1)
    told = "sent 2 transfers with 68 cents: 2 posted, 0 rejected, 0 failed, 0 canceled; see "
    assert (done.exit_code, done.stdout) == (0, f"{told}{file.with_suffix('.report.csv')}\n")
    assert report(file) == [("2", "posted", ""), ("3", "posted", "")]
    first, second = (answer(get(client, f"{JOBS}/{row['transfer_id']}")) for row in rows(file))
    assert (first["amount"], first["description"], first["reference"]) == (67, "rent, paid", "INV-1")
    assert first["metadata"] == {"order": "17"}
    assert (second["amount"], second["description"], second["reference"], second["metadata"]) == (1, None, None, None)
    assert [balance_of(client, user) for user in (1, 2)] == [9_932, 10_068]


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.usefixtures("worker")
def test_json_is_what_the_api_takes(run: Runner, client: FlaskClient, tmp_path: Path, *, within: bool) -> None:
    items = [{"destination_user_id": "2", "amount": 5, "metadata": {"k": "v"}}, {"destination_user_id": 2, "amount": 6}]
    file = tmp_path / "payouts.json"
    file.write_text(json.dumps({"transfers": items} if within else items))
    assert run("bulk", file, "--user", 1).exit_code == 0
    assert report(file) == [("1", "posted", ""), ("2", "posted", "")]
    assert answer(get(client, f"{JOBS}/{rows(file)[0]['transfer_id']}"))["metadata"] == {"k": "v"}


@pytest.mark.usefixtures("worker", "chunks_of_three")
def test_what_became_of_each_line_stands_in_its_order_over_bulks_and_pages(
    run: Runner, client: FlaskClient, file: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "OUTCOMES", 2)
    done = run("bulk", file, "--user", 1, "--report", file.with_suffix(".report.csv"))
    assert done.exit_code == 1
    assert done.stdout.startswith("sent 7 transfers with 10159 cents: 5 posted, 2 rejected, 0 failed, 0 canceled; see ")
    assert report(file) == REPORT
    for row, (_, status, reason) in zip(rows(file), REPORT, strict=True):
        job = answer(get(client, f"{JOBS}/{row['transfer_id']}"))
        assert (job["status"], job["reason"] or "") == (status, reason)
    assert [answer(get(client, f"{JOBS}/{row['transfer_id']}"))["amount"] for row in rows(file)] == [
        10, 10, 20, 9_999, 30, 40, 50,
    ]  # fmt: skip
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count FROM bulks ORDER BY id")).scalars().all() == [3, 3, 1]


@pytest.mark.usefixtures("worker")
def test_run_again_it_sends_nothing_and_reports_the_same(run: Runner, file: Path, engine: Engine) -> None:
    first = run("bulk", file, "--user", 1)
    reported = file.with_suffix(".report.csv").read_text()
    file.with_suffix(".report.csv").unlink()
    again = run("bulk", file, "--user", 1)
    assert (first.exit_code, first.stderr, again.exit_code) == (1, "", bulk.EXIT_SENT_BEFORE)
    assert again.stdout == first.stdout.replace("cents:", "cents, all of them before:")
    assert file.with_suffix(".report.csv").read_text() == reported
    assert count_transfers(engine) == DEPOSITS + 7
    acts = [json.loads(line) for line in run("actions", "--json").stdout.splitlines()]
    assert [(act["what"], act["on"], act["outcome"]) for act in acts] == [
        ("bulk.send", "1", "unchanged"),
        ("bulk.send", "1", "done"),
    ]
    # By somebody else, and with another byte in it, it is something else.
    file.write_text(CSV.replace("2,", "1,"))
    assert run("bulk", file, "--user", 2, "--no-wait").stdout.startswith("sent 7 transfers with 10159 cents, bulk_id ")
    assert count_transfers(engine) == DEPOSITS + 14


def standings(engine: Engine) -> list[tuple[str, str, str]]:
    """How often, when and until when each bulk is said to be sent."""
    spelled = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    query = f"SELECT id, {spelled.format('created_at')}, {spelled.format('completed_at')} FROM bulks ORDER BY id"  # noqa: S608
    with engine.connect() as connection:
        return [(str(row[0]), row[1], row[2]) for row in connection.execute(text(query))]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("no_wait", [[], ["--no-wait"]])
def test_what_was_all_sent_before_is_said_loudly_and_can_be_sent_once_more(
    run: Runner, file: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, no_wait: list[str]
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    monkeypatch.setattr(bulk, "MAX_NAMED", 1)
    file.write_text("destination_user_id,amount\n2,10\n2,20\n2,30\n")
    assert run("bulk", file, "--user", 1).exit_code == 0
    (first_id, sent_at, over_at), _ = standings(engine)
    again = run("bulk", file, "--user", 1, *no_wait)
    assert again.exit_code == bulk.EXIT_SENT_BEFORE
    assert again.stdout.startswith("sent 3 transfers with 60 cents, all of them before")
    assert again.stderr.splitlines() == [
        f"WARNING: NOTHING WAS SENT AND NO MONEY MOVED NOW: all of {file} was sent before, and is over:",
        f"  bulk {first_id}: 2 transfers, 30 cents, sent {sent_at}, over {over_at}",
        "  (and 1 more)",
        f"If it is to be paid once more, name another run: flask bulk {file} --user 1 --run NAME",
    ]
    assert balances(engine) == {1: 9_940, 2: 10_060}

    told = shlex.split(again.stderr.splitlines()[-1].partition("flask ")[2].replace("NAME", "December"))
    december = run(*told)
    assert (december.exit_code, december.stderr) == (0, "")
    assert december.stdout.startswith("sent 3 transfers with 60 cents: 3 posted, ")
    assert balances(engine) == {1: 9_880, 2: 10_120}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["2026-12", "of December: 2"])
def test_a_named_run_may_be_repeated_and_ends_as_it_had(run: Runner, file: Path, engine: Engine, name: str) -> None:
    file.write_text("destination_user_id,amount\n2,10\n")
    for is_repeated in (False, True):
        done = run("bulk", file, "--user", 1, "--run", name)
        assert done.exit_code == 0
        assert (f"all of {file}, run {name}, was sent before, and is over" in done.stderr) == is_repeated
        assert run("bulk", file, "--user", 1, "--run", name, "--no-wait").exit_code == 0
    assert balances(engine) == {1: 9_990, 2: 10_010}


def test_what_was_sent_before_and_is_still_pending_is_gone_on_with(run: Runner, file: Path, engine: Engine) -> None:
    run("bulk", file, "--user", 1, "--no-wait")
    again = run("bulk", file, "--user", 1, "--no-wait")
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout.startswith("sent 7 transfers with 10159 cents, all of them before, bulk_id ")
    assert len(pending(engine)) == 7


@pytest.fixture
def chunks_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulks of a few lines."""
    monkeypatch.setattr(bulk, "CHUNK", 3)


@pytest.fixture
def environment(service_database_url: str, redis_url: str) -> dict[str, str]:
    """What a command of its own process needs."""
    return {"PATH": os.environ["PATH"], "DATABASE_URL": service_database_url, "REDIS_URL": redis_url}


@pytest.mark.usefixtures("chunks_of_three")
def test_killed_in_the_middle_and_run_again_each_line_is_sent_once(
    run: Runner, file: Path, engine: Engine, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    arguments = ["3", "2", str(file), "--user", "1"]
    killed = nursery.run(
        [sys.executable, "-m", "tests.api.commands.bulk_child", *arguments], cwd=ROOT, env=environment, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert count_transfers(engine) == DEPOSITS + 6
    assert not file.with_suffix(".report.csv").exists()
    assert '"begun"' in run("actions", "--json").stdout
    request.getfixturevalue("worker")
    done = run("bulk", file, "--user", 1)
    assert done.exit_code == 1
    assert done.stdout.startswith("sent 7 transfers with 10159 cents, 6 of them before: 5 posted, 2 rejected, ")
    assert report(file) == REPORT
    assert balances(engine) == {1: 10_000 - 150, 2: 10_000 + 150}


def test_broken_off_while_it_waits_it_says_how_to_go_on(
    run: Runner, file: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    process = Forked(
        [sys.executable, "-c", INTERRUPTIBLE, "bulk", str(file), "--user", "1"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Once that is in the record, it waits for workers.
    assert wait_for(lambda: '"done"' in run("actions", "--json").stdout, PATIENCE_S)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.splitlines()[0] == bulk.GO_ON
    request.getfixturevalue("worker")
    assert ", all of them before: 5 posted" in run("bulk", file, "--user", 1).stdout
    assert report(file) == REPORT


# What a shell has started in the background ignores Ctrl-C, and so do those whom that starts.
INTERRUPTIBLE = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "flask"
runpy.run_module("flask", run_name="__main__", alter_sys=True)
"""


@pytest.mark.usefixtures("worker")
def test_a_terminal_sees_how_far_it_is(file: Path, environment: dict[str, str]) -> None:
    terminal, other_end = pty.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "flask", "bulk", str(file), "--user", "1"],
            cwd=ROOT, env=environment | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=other_end, timeout=60,
            check=False,
        )  # fmt: skip
        assert ended.stdout.startswith(b"sent 7 transfers")
        shown = os.read(terminal, 65_536)
        assert shown.count(b"100%") == 2
        assert shown.index(b"sent ") < shown.index(b"final ")
    finally:
        os.close(terminal)
        os.close(other_end)


def test_without_waiting_there_is_no_report_and_later_there_is(
    run: Runner, file: Path, engine: Engine, request: pytest.FixtureRequest
) -> None:
    sent = run("bulk", file, "--user", 1, "--no-wait", "--run", "November")
    with engine.connect() as connection:
        bulk_id = connection.execute(text("SELECT id FROM bulks")).scalar_one()
    assert (sent.exit_code, sent.stdout) == (0, f"sent 7 transfers with 10159 cents, bulk_id {bulk_id}\n")
    assert not file.with_suffix(".report.csv").exists()
    assert len(pending(engine)) == 7
    request.getfixturevalue("worker")
    assert run("bulk", file, "--user", 1, "--run", "November").exit_code == 1
    assert report(file) == REPORT


@pytest.mark.usefixtures("worker")
def test_an_atomic_file_is_posted_whole_or_rejected_whole(run: Runner, file: Path, engine: Engine) -> None:
    assert run("bulk", file, "--user", 1, "--atomic").exit_code == 1
    assert report(file) == [
        ("2", "rejected", "bulk_rejected"), ("3", "rejected", "wallet_not_found"), ("5", "rejected", "bulk_rejected"),
        ("6", "rejected", "bulk_rejected"), ("7", "rejected", "bulk_rejected"), ("8", "rejected", "bulk_rejected"),
        ("9", "rejected", "bulk_rejected"),
    ]  # fmt: skip
    refused = run("bulk", file, "--user", 1)
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith("Error: it was sent before with --atomic (transfer ")
    file.write_text("destination_user_id,amount\n2,4\n2,5\n")
    assert run("bulk", file, "--user", 1, "--atomic").exit_code == 0
    assert balances(engine) == {1: 9_991, 2: 10_009}


def test_more_than_an_atomic_bulk_takes_is_refused(run: Runner, file: Path, engine: Engine) -> None:
    file.write_text("destination_user_id,amount\n" + "2,1\n" * 1_001)
    refused = run("bulk", file, "--user", 1, "--atomic")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[0] == f"{file}:1002: more than 1000 transfers"
    assert count_transfers(engine) == DEPOSITS


def test_all_that_is_wrong_is_told_with_its_lines_and_nothing_is_sent(run: Runner, file: Path, engine: Engine) -> None:
    file.write_text(
        "destination_user_id,amount,reference\n2,5,ok\n2,-1,\n2,x,\n,5,\n2,5,h\u00e9\n1,5,\n2,5\n" + "0,1,\n" * 100
    )
    refused = run("bulk", file, "--user", 1)
    assert (refused.exit_code, refused.stdout) == (1, "")
    lines = refused.stderr.splitlines()
    told = [line.removeprefix(f"{file}:") for line in lines]
    assert told[0].startswith("3: amount: Input should be greater")
    assert told[1].startswith("4: amount: Input should be a valid integer")
    assert told[2].startswith("5: destination_user_id: ")
    assert told[3].startswith("6: reference: ")
    assert told[4:6] == [
        "7: destination_user_id: money cannot be transferred to oneself",
        "8: must have 3 fields, has 2",
    ]
    assert lines[-2:] == ["(and 86 more)", f"Error: {file} is not sent, nothing moved"]
    assert len(lines) == 22
    assert count_transfers(engine) == DEPOSITS
    assert run("actions").stdout.count("\n") == 1  # the header


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("f.csv", b"", "1: the first line must name the columns; there is no destination_user_id"),
        ("f.csv", b"destination_user_id\n2\n", "1: the first line must name the columns; there is no amount"),
        ("f.csv", b"destination_user_id,amount\n\n", "1: there are no transfers in it"),
        ("f.csv", b"destination_user_id,amount,amount\n2,5,5\n", "1: the column 'amount' stands there twice"),
        ("f.csv", b"destination_user_id,amount,metadata.\n2,5,5\n", "1: the column 'metadata.' is none of "),
        ("f.csv", b"destination_user_id,amount,memo\n2,5,5\n", "1: the column 'memo' is none of "),
        ("f.csv", b"destination_user_id,amount\n2,5\n2,\xff\n", "3: not UTF-8"),
        ("f.csv", b'destination_user_id,amount\n2,5\n2,"5\n', "3: not CSV: "),
        ("f.csv", b"destination_user_id,amount\n2,9223372036854775807\n2,1\n", "3: together they are more than "),
        ("f.csv", b"destination_user_id,amount\n2,1" + b"0" * 20 + b"\n", "2: amount: "),
        ("f.json", b"", "1: not valid JSON"),
        ("f.json", b"5", "1: must be an array of transfers, or "),
        ("f.json", b"[]", "1: there are no transfers in it"),
        ("f.json", b'{"transfers": [], "atomic": true}', "1: must be an array of transfers, or "),
        ("f.json", b'[{"destination_user_id": 2, "amount": 1}, 5]', "2: "),
        ("f.json", b'[{"destination_user_id": 2, "amount": 1.5}]', "1: amount: "),
        ("f.json", b'[{"destination_user_id": 2, "amount": 1, "amount": 2}]', "1: amount: must be given once"),
        ("f.json", b'[{"destination_user_id": 2, "amount": 1, "to": 2}]', "1: to: "),
    ],
)
def test_what_is_no_file_of_transfers_is_refused(
    run: Runner, tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    refused = run("bulk", file, "--user", 1)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"{file}:{complaint}")
    assert refused.stderr.endswith(f"Error: {file} is not sent, nothing moved\n")


def test_a_payer_without_a_wallet_is_refused_in_one_line(run: Runner, file: Path, engine: Engine) -> None:
    refused = run("bulk", file, "--user", 77)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "Error: The user has no wallet. (wallet_id=77)\n"
    assert count_transfers(engine) == DEPOSITS


def test_with_postgresql_gone_it_says_so_and_how_to_go_on(
    run: Runner, make_app: AppMaker, postgres_proxy: TcpProxy, file: Path, engine: Engine
) -> None:
    postgres_proxy.refuse()
    gone = run("bulk", file, "--user", 1, app=make_app(database_url=postgres_proxy.url))
    assert (gone.exit_code, gone.stdout, gone.stderr.count("\n")) == (1, "", 2)
    assert gone.stderr.splitlines()[0] == bulk.GO_ON
    assert count_transfers(engine) == DEPOSITS


@pytest.mark.usefixtures("worker")
def test_what_is_not_known_any_more_is_not_made_up(run: Runner, file: Path, engine: Engine) -> None:
    run("bulk", file, "--user", 1)
    reported = file.with_suffix(".report.csv").read_text()
    gone = text("UPDATE transfers SET bulk_id = :bulk_id WHERE id = :id")
    with engine.begin() as connection:
        bulk_id = connection.execute(text("SELECT id FROM bulks")).scalar_one()
        connection.execute(gone, {"bulk_id": None, "id": int(rows(file)[2]["transfer_id"])})
    refused = run("bulk", file, "--user", 1)
    assert (refused.exit_code, refused.stdout) == (1, "")
    error = f"Error: transfers of bulk {bulk_id} have left for an archive: there is no report"
    assert refused.stderr.splitlines()[-1] == error
    assert file.with_suffix(".report.csv").read_text() == reported
    with engine.begin() as connection:
        connection.execute(gone, {"bulk_id": bulk_id, "id": int(rows(file)[2]["transfer_id"])})


@pytest.mark.parametrize(
    "arguments",
    [
        ("payouts.csv",),
        ("none.csv", "--user", 1),
        ("payouts.txt", "--user", 1),
        ("payouts.csv", "--user", 0),
        ("payouts.csv", "--user", 1, "--run", ""),
        ("payouts.csv", "--user", 1, "--run", "r" * 65),
        ("payouts.csv", "--user", 1, "--report", "payouts.csv"),
        ("payouts.csv", "--user", 1, "--report", "nowhere/report.csv"),
        ("payouts.csv", "--user", 1, "--report", "report.csv", "--no-wait"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    run: Runner, engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(file.parent)
    (file.parent / "payouts.txt").write_text(CSV)
    refused = run("bulk", *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert count_transfers(engine) == DEPOSITS
