"""``flask transfers``: how one stands, and waiting for it with an exit status to go by."""

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from tests.api.calls import JOBS, TRANSFER, accept, answer, fund, get, post
from tests.api.commands.conftest import Runner
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy

Act = Callable[[str], None]
UNKNOWN = "118361825078153216"


@pytest.fixture
def soon() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Do something in another thread while the command waits."""
    timers: list[threading.Timer] = []

    def soon(act: Callable[[], object]) -> None:
        timers.append(threading.Timer(0.2, act))
        timers[-1].start()

    yield soon
    for timer in timers:
        timer.join()


Soon = Callable[[Callable[[], object]], None]


def test_a_transfer_is_shown_as_the_api_answers_it(run: Runner, funded: FlaskClient) -> None:
    job_id = accept(funded)
    shown = run("transfers", "show", job_id, "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == answer(get(funded, f"{JOBS}/{job_id}"))


def test_a_transfer_is_shown_to_people_as_lines_without_what_is_not_known(run: Runner, funded: FlaskClient) -> None:
    job_id = accept(funded, 67)
    facts = dict(line.split() for line in run("transfers", "show", job_id).stdout.splitlines())
    del facts["created_at"]
    assert facts == {
        "job_id": job_id, "status": "pending", "source_user_id": "1", "destination_user_id": "2", "amount": "67",
        "attempts": "0", "kind": "transfer",
    }  # fmt: skip


@pytest.mark.parametrize(("command", "status"), [("show", 1), ("watch", 2)])
def test_an_unknown_transfer_is_one_line(run: Runner, command: str, status: int) -> None:
    shown = run("transfers", command, UNKNOWN)
    assert (shown.exit_code, shown.stdout, shown.stderr.count("\n")) == (status, "", 1)
    assert UNKNOWN in shown.stderr


def test_who_watches_sees_it_pending_and_then_posted(run: Runner, funded: FlaskClient, settle: Act, soon: Soon) -> None:
    job_id = accept(funded)
    soon(lambda: settle(job_id))
    watched = run("transfers", "watch", job_id)
    assert watched.exit_code == 0
    assert [line.split("\t")[0] for line in watched.stdout.splitlines()] == ["pending", "posted"]
    assert "attempts=1" in watched.stdout


def test_what_is_final_already_is_told_at_once(run: Runner, funded: FlaskClient, settle: Act) -> None:
    job_id = accept(funded)
    settle(job_id)
    watched = run("transfers", "watch", job_id, "--timeout", 0)
    assert (watched.exit_code, watched.stdout.count("\n"), watched.stderr) == (0, 1, "")


def test_a_rejected_one_ends_with_status_1_and_its_reason(run: Runner, funded: FlaskClient, settle: Act) -> None:
    first, second = (accept(funded, 10_000) for _ in range(2))
    settle(first)
    settle(second)
    watched = run("transfers", "watch", second)
    assert watched.exit_code == 1
    assert "rejected\treason=balance_insufficient" in watched.stdout


def test_a_dead_letter_ends_with_status_1(run: Runner, funded: FlaskClient, bury: Act, soon: Soon) -> None:
    job_id = accept(funded)
    soon(lambda: bury(job_id))
    watched = run("transfers", "watch", job_id)
    assert (watched.exit_code, watched.stdout.splitlines()[-1].split("\t")[0]) == (1, "failed")
    assert "last_error=slow" in watched.stdout


@pytest.mark.parametrize("timeout", ["0", "0.1", "nan"])
def test_waiting_has_an_end_and_then_nothing_is_known(run: Runner, funded: FlaskClient, timeout: str) -> None:
    watched = run("transfers", "watch", accept(funded), "--timeout", timeout)
    assert (watched.exit_code, watched.stdout.split("\t")[0], watched.stderr.count("\n")) == (2, "pending", 1)


def test_a_database_that_is_away_is_waited_for(
    run: Runner, make_app: AppMaker, postgres_proxy: TcpProxy, soon: Soon
) -> None:
    app = make_app(database_url=postgres_proxy.url)
    fund(app.test_client(), 1, 2)
    job_id = answer(post(app.test_client(), TRANSFER, {"destination_user_id": 2, "amount": 1}))["transfer_id"]
    postgres_proxy.refuse()
    gone = run("transfers", "watch", job_id, "--timeout", 0.1, app=app)
    assert (gone.exit_code, gone.stdout) == (2, "")
    soon(lambda: postgres_proxy.refuse(refusing=False))
    back = run("transfers", "watch", job_id, app=app)
    assert (back.exit_code, back.stdout.split("\t")[0]) == (0, "posted")
    assert back.stderr.startswith("waiting: ")
