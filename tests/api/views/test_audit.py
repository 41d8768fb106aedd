"""The last audit's result, for administrators; and an audit on the command line."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from models.audit import record
from models.audit.audit import Progress
from tests.api.calls import ADMIN, accept, answer, ask, basic, fund, get, is_instant, problem
from tests.api.conftest import AppMaker
from tests.proxy import TcpProxy

AUDIT = "/api/audit/v1"
NOTHING: dict[str, Any] = {"ok": None, "started_at": None, "finished_at": None, "checked": {}, "findings": []}

Run = Callable[..., Any]


@pytest.fixture
def run(app: Flask) -> Run:
    return app.test_cli_runner().invoke


def spoil(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE wallets SET balance = balance + 1 WHERE id = 2"))


@pytest.mark.parametrize(
    ("credentials", "code"),
    [(1, "forbidden"), (None, "unauthorized"), (basic("admin", "wrong"), "unauthorized")],
)
def test_only_administrators_see_it(client: FlaskClient, credentials: int | str | None, code: str) -> None:
    problem(ask(client, "GET", AUDIT, user=credentials), code)


def test_an_unknown_query_parameter_is_refused(client: FlaskClient) -> None:
    problem(get(client, f"{AUDIT}?x=1", user=ADMIN), "bad_input")


def test_before_the_first_audit_nothing_is_known(client: FlaskClient) -> None:
    assert answer(get(client, AUDIT, user=ADMIN)) == NOTHING | {"under_way": None}


def test_the_last_result_is_shown_and_the_one_under_way(funded: FlaskClient, engine: Engine, run: Run) -> None:
    assert run(args=["audit"]).exit_code == 0
    progress = record.begin_or_resume(engine, first_check="books", interval_s=0)
    assert isinstance(progress, Progress)
    progress.checked = {"wallets": 1, "entries": 0, "transfers": 0}
    record.save(engine, progress)
    body = answer(get(funded, AUDIT, user=ADMIN))
    under_way = body.pop("under_way")
    assert is_instant(body.pop("started_at"))
    assert is_instant(body.pop("finished_at"))
    assert body == {"ok": True, "checked": {"wallets": 2, "entries": 2, "transfers": 2}, "findings": []}
    assert is_instant(under_way.pop("started_at"))
    assert under_way == {"ok": None, "finished_at": None, "checked": progress.checked, "findings": []}


def test_findings_name_the_invariant_and_the_offenders(funded: FlaskClient, engine: Engine, run: Run) -> None:
    spoil(engine)
    assert run(args=["audit"]).exit_code == 1
    body = answer(get(funded, AUDIT, user=ADMIN))
    assert body["ok"] is False
    assert body["findings"] == [
        {
            "invariant": "balance_equals_entries",
            "count": 1,
            "ids": ["2"],
            "detail": "wallet 2: balance 10001, its entries sum up to 10000, the newest says 10000",
        }
    ]


def test_with_postgresql_gone_it_is_unavailable(cut_client: FlaskClient, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.refuse()
    problem(get(cut_client, AUDIT, user=ADMIN), "unavailable")


def test_the_command_says_that_nothing_is_wrong(funded: FlaskClient, run: Run) -> None:
    accept(funded)
    done = run(args=["audit"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.endswith("2 wallets, 2 entries, 3 transfers: 0 invariants broken\n")


@pytest.mark.usefixtures("funded")
def test_the_command_names_what_is_wrong(engine: Engine, run: Run) -> None:
    spoil(engine)
    done = run(args=["audit"])
    line = "balance_equals_entries\t1\t2\twallet 2: balance 10001, its entries sum up to 10000, the newest says 10000\n"
    assert (done.exit_code, done.stdout) == (1, line)


def test_the_command_prints_json_as_the_api_does(funded: FlaskClient, engine: Engine, run: Run) -> None:
    spoil(engine)
    done = run(args=["audit", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) | {"under_way": None} == answer(get(funded, AUDIT, user=ADMIN))


@pytest.mark.parametrize("away", ["postgres", "redis"])
def test_the_command_tells_that_it_could_not_run(
    *, make_app: AppMaker, postgres_proxy: TcpProxy, redis_proxy: TcpProxy, redis_client: redis.Redis, away: str
) -> None:
    del redis_client  # asked for to be emptied
    app = make_app(database_url=postgres_proxy.url, redis_url=redis_proxy.url)
    fund(app.test_client(), 1, 2)
    (postgres_proxy if away == "postgres" else redis_proxy).refuse()
    done = app.test_cli_runner().invoke(args=["audit"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: not audited: ")
