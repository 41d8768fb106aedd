"""A clock that is set while the service runs stops nobody for long, and no id is issued twice."""

from pathlib import Path

from ops.local.processes import wait_for
from tests.api.server import Gunicorn, gunicorn, json_of
from tests.faketime import Clock
from tests.patience import PATIENCE_S

HOUR_S = 3_600
DEPOSIT = "/api/deposit/v1"


def deposit(server: Gunicorn) -> int:
    answer = server.ask("POST", DEPOSIT, headers=json_of(1), body=b'{"amount": 1}')
    assert answer.status == 200, answer
    return int(str(answer.json["transfer_id"]))


def readiness(server: Gunicorn) -> int:
    return server.ask("GET", "/readyz").status


def test_a_clock_that_was_an_hour_ahead_for_a_request_stops_nobody(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    # A database of its own: one of its nodes is of no use for an hour.
    clock = Clock.or_skip(tmp_path / "clock")
    urls = {"DATABASE_URL": own_database_url, "REDIS_URL": redis_url, "RATE_LIMIT": "off", "API_PROCESSES": "1"}
    with gunicorn(tmp_path / "api.log", **urls, **clock.environment) as server:
        assert wait_for(lambda: readiness(server) == 200, PATIENCE_S)
        before = deposit(server)
        clock.set(HOUR_S)
        ahead = deposit(server)
        clock.set(0)
        after = [deposit(server), deposit(server)]
        assert readiness(server) == 200
    assert before < after[0] < after[1] < ahead
    assert "the clock has gone back" in (tmp_path / "api.log").read_text()
