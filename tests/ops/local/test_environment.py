"""What a shell has in its environment for other programs bends neither the service nor its commands."""

import base64
import http.client
import os
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from config.libpq import withhold_variables
from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests import nursery
from tests.ops.local.test_stack import Run, environment_of, get, is_ready
from tests.patience import PATIENCE_S
from tests.project import ROOT

pytestmark = pytest.mark.stack
FOR_PSQL = {
    "PGDATABASE": "elsewhere",
    "PGHOST": "/nowhere",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGPASSWORD": "wrong",
    "PGPORT": "1",
    "PGSERVICE": "nowhere",
    "PGSSLMODE": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGUSER": "nobody",
}
FOR_LIBRARIES = {
    "FLASK_DEBUG": "1",
    "GEVENT_RESOLVER": "none",
    "GRPC_VERBOSITY": "debug",
    "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1",
    "RQ_SENTRY_DSN": "nowhere",
    "owner_database_url": "",
    "prometheus_multiproc_dir": "/nowhere",
}


def command(home: Path, urls: dict[str, str], *arguments: str) -> nursery.Completed:
    environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(home)} | FOR_PSQL | urls
    return nursery.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment)


@pytest.mark.parametrize("given", ["servers of its own", "a server of ones own"])
def test_variables_of_libpq_and_of_libraries_change_nothing(
    tmp_path: Path, given: str, empty_database_url: str, request: pytest.FixtureRequest
) -> None:
    urls = {"DATABASE_URL": empty_database_url} if given == "a server of ones own" else {}
    run = Run(tmp_path, settings=FOR_PSQL | FOR_LIBRARIES | urls)
    request.addfinalizer(run.process.communicate)
    request.addfinalizer(run.process.kill)
    state = run.wait_until_up()
    assert wait_for(lambda: is_ready(run), PATIENCE_S)
    assert get(run, "/api/wallet/balance/v1") == (200, {"balance": 10_000})
    # gunicorn puts its title over what /proc shows of its own.
    told = environment_of(state["workers"][0]["pid"])
    assert not told.keys() & (FOR_PSQL | FOR_LIBRARIES).keys()
    doctor = command(tmp_path, urls, "flask", "doctor")
    assert doctor.returncode == 0, doctor
    dump = tmp_path / "wallet.dump"
    assert command(tmp_path, urls, "ops.backup", "dump", str(dump)).returncode == 0
    assert dump.exists()
    run.process.terminate()
    said = run.output()
    assert f"not heeded: {', '.join(FOR_PSQL)} (DATABASE_URL alone" in said
    assert run.process.returncode == 0


def test_a_library_of_postgresql_sees_nothing_of_what_is_withheld(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FOR_PSQL.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(psycopg2.Error):
        psycopg2.connect(postgres_server.url)
    assert withhold_variables() == tuple(FOR_PSQL)
    psycopg2.connect(postgres_server.url).close()


def test_the_api_alone_is_told_who_callers_are(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    alone = {
        "ADMIN_USER": "root",
        "ADMIN_PASSWORD": "a-password",
        "AUTH_MODE": "jwt",
        "DEPOSIT_SCOPE": "deposit",
        "JWT_AUDIENCE": "wallet",
        "JWT_SECRET": "x" * 32,
    }
    run = Run(tmp_path, settings=alone | {"HOST": "0.0.0.0"})  # noqa: S104
    request.addfinalizer(run.process.communicate)
    request.addfinalizer(run.process.kill)
    state = run.wait_until_up()
    credentials = base64.b64encode(b"root:a-password").decode()
    with closing(http.client.HTTPConnection("127.0.0.1", int(run.port), timeout=30)) as connection:
        connection.request("GET", "/api/audit/v1", headers={"Authorization": f"Basic {credentials}"})
        assert connection.getresponse().status == 200
    assert not alone.keys() & environment_of(state["workers"][0]["pid"]).keys()
    run.process.terminate()
    run.output()
    assert run.process.returncode == 0
