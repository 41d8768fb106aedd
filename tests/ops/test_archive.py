"""``make archive``: as the owner, beside a running service or not, told in lines, with exit statuses."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models.ledger.orders import Orders
from models.schema import grants, migrations
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.roles import SERVICE
from ops.local.servers import PostgresServer
from tests import nursery
from tests.books import check_books
from tests.models.ledger.archiving import age, openings
from tests.models.ledger.ordering import bounded_engine, deposit
from tests.project import ROOT

DAY = "2026-03-01"


def run(*arguments: str | Path, **settings: str) -> nursery.Completed:
    environment = {"PATH": os.environ["PATH"], **settings}
    command = [sys.executable, "-m", "ops.archive", *map(str, arguments)]
    return nursery.run(command, cwd=ROOT, env=environment, text=True)


@pytest.fixture
def owner(engine: Engine, snowflake: Snowflake, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of an owner whose database has one old entry and a young one; its home is elsewhere."""
    orders = Orders(engine, snowflake)
    orders.execute(deposit(1, 100))
    age(engine)
    orders.execute(deposit(1, 5))
    return {"DATABASE_URL": database_url, "WALLET_HOME": str(tmp_path / "home")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archives"


def vacuums(engine: Engine) -> int:
    """How often entries and transfers have been vacuumed by somebody."""
    query = text("SELECT sum(vacuum_count) FROM pg_stat_user_tables WHERE relname IN ('entries', 'transfers')")
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def test_it_tells_what_has_left_makes_room_and_proves_it(engine: Engine, owner: dict[str, str], folder: Path) -> None:
    before = vacuums(engine)
    moved = run("move", DAY, folder, **owner)
    (name,) = [path.name for path in folder.iterdir()]
    assert (moved.returncode, moved.stdout, moved.stderr) == (
        0,
        f"{name}\t1 entries of 1 wallets, 1 transfers\n",
        "1 entries and 1 transfers have left\n",
    )
    assert openings(engine) == {1: (1, 100)}
    assert vacuums(engine) == before + 2
    again = run("move", DAY, folder, **owner)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "0 entries and 0 transfers have left\n")
    assert vacuums(engine) == before + 2
    proven = run("verify", folder, **owner)
    assert (proven.returncode, proven.stdout, proven.stderr) == (
        0,
        "",
        "1 files, 1 entries, 1 transfers: as the database knows them\n",
    )


def test_a_file_that_was_changed_is_told_with_status_1(owner: dict[str, str], folder: Path) -> None:
    run("move", DAY, folder, **owner)
    (name,) = [path.name for path in folder.iterdir()]
    (folder / name).write_bytes(b"")
    (folder / "archive-000002-0000.jsonl.gz").touch()
    proven = run("verify", folder, **owner)
    assert (proven.returncode, proven.stdout) == (
        1,
        f"{name}: its digest is another than the database has: it was changed\n",
    )
    assert "something is wrong" in proven.stderr


def test_the_services_role_is_refused_in_a_line(owner: dict[str, str], service_database_url: str, folder: Path) -> None:
    refused = run("move", DAY, folder, **owner | {"DATABASE_URL": service_database_url})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "make archive: InsufficientPrivilege: permission denied for table entries\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("move", "9999-12-31"), 1, "make archive: what is younger than 1 day stays: "),
        (("move", "yesterday"), 2, "argument DAY: not a day like 2026-12-31: yesterday"),
        (("move",), 2, "the following arguments are required"),
        ((), 2, "the following arguments are required: command"),
    ],
)
def test_wrong_usage_is_told(
    owner: dict[str, str], folder: Path, arguments: tuple[str, ...], status: int, told: str
) -> None:
    done = run(*arguments, *([folder] if len(arguments) == 2 else []), **owner)
    assert done.returncode == status
    assert told in done.stderr
    assert not folder.exists()


def test_without_a_database_it_says_so(folder: Path, tmp_path: Path) -> None:
    done = run("move", DAY, folder, WALLET_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"make archive: there is no database in WALLET_HOME={tmp_path}\n")
    done = run("move", DAY, folder, PORT="none")
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "configuration error")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that has books, and no running service."""
    home = tmp_path / "home"
    with PostgresServer(home) as server, bounded_engine(server.url) as owner, bounded_engine(server.service_url) as own:
        migrations.upgrade(owner)
        grants.give(owner, SERVICE)
        Orders(own, Snowflake(NodeLease(own))).execute(deposit(1, 100))
        age(owner)
    yield home
    with PostgresServer(home) as server, bounded_engine(server.url) as owner:
        assert openings(owner) == {1: (1, 100)}
        check_books(owner)


def test_a_home_whose_service_is_down_is_archived_as_well(home: Path, folder: Path) -> None:
    done = run("move", DAY, folder, WALLET_HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "1 entries and 1 transfers have left\n")
