"""Callers whose old entries have left: balances and keys are as ever, and what is not there is said to be over."""

from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from ops.local.processes import wait_for
from tests.api.calls import BALANCE, DEPOSIT, HISTORY, JOBS, TRANSFER, answer, balance_of, fund, get, post, problem
from tests.models.ledger.archiving import age, archive, proven
from tests.patience import PATIENCE_S

PAGE = f"{HISTORY}?page_size=2"


def test_what_callers_see_of_entries_that_have_left(
    app: Flask, client: FlaskClient, engine: Engine, tmp_path: Path
) -> None:
    assert wait_for(app.extensions["wallet"].cache.pulse.believes, PATIENCE_S)
    fund(client, 1, amount=100)
    fund(client, 2, amount=5)
    body = {"destination_user_id": 2, "amount": 30}
    keyed = post(client, TRANSFER, body, key="k")
    first = answer(keyed)
    plain = answer(post(client, TRANSFER, body))["transfer_id"]
    age(engine)
    fund(client, 1, amount=1)
    cached = answer(get(client, PAGE))
    assert (cached["has_more"], len(cached["transactions"])) == (True, 2)

    archive(engine, tmp_path)

    assert balance_of(client, 1) == 41
    # What is cached is of the same version still; nothing in it is untrue, and it is gone with the next posting.
    assert answer(get(client, PAGE)) == cached
    beyond = answer(get(client, f"{PAGE}&cursor={cached['next_cursor']}"))
    assert (beyond["transactions"], beyond["has_more"], beyond["next_cursor"]) == ([], False, None)
    answer(post(client, DEPOSIT, {"amount": 2}))
    page = answer(get(client, f"{HISTORY}?page_size=3"))
    assert [each["balance_after"] for each in page["transactions"]] == [43, 41]
    assert (page["has_more"], page["next_cursor"], page["statement_balance"]) == (False, None, 43)

    problem(get(client, f"{JOBS}/{plain}"), "job_not_found")
    assert answer(get(client, f"{JOBS}/{first['transfer_id']}"))["status"] == "posted"
    again = post(client, TRANSFER, body, key="k")
    assert (answer(again), again.headers["Idempotency-Replayed"]) == (first, "true")
    assert answer(get(client, BALANCE, user=2))["balance"] == 65
    proven(engine, tmp_path)
