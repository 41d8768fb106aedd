"""A backup is whole, private and consistent; what is restored from it balances, and the service runs on it."""

import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import Engine, text

from models.database.engine import create_bounded_engine
from models.ledger.orders import Orders
from models.ledger.transfer import Details
from models.schema import grants, migrations, revision
from models.schema.revision import readiness
from models.schema.tables import GUARDS, snowflake_nodes
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.homes import only_one
from ops.local.processes import wait_for
from ops.local.roles import SERVICE
from ops.local.servers import PostgresServer, RedisServer
from tests import nursery
from tests.books import check_books
from tests.models.ledger.ordering import balances, bounded_engine, deposit, later, transfer
from tests.models.schema.test_guards import KEEPING
from tests.ops.local.test_servers import ask
from tests.ops.local.test_stack import Run, get
from tests.patience import PATIENCE_S
from tests.project import ROOT

pytestmark = pytest.mark.xdist_group("backup")

USERS = (1, 2, 3)


def backup(home: Path, *arguments: str | Path, **settings: str) -> nursery.Completed:
    environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(home), **settings}
    command = [sys.executable, "-m", "ops.backup", *map(str, arguments)]
    return nursery.run(command, cwd=ROOT, env=environment, text=True)


@contextmanager
def books_of(url: str) -> Iterator[Engine]:
    with bounded_engine(url, pool_size=16) as engine:
        yield engine


@contextmanager
def load(engine: Engine) -> Iterator[None]:
    """Money that moves all the while, in circles."""
    over = threading.Event()
    failures: list[Exception] = []

    def move(payer: int, payee: int) -> None:
        orders = Orders(engine, Snowflake(NodeLease(engine)))
        try:
            while not over.is_set():
                orders.execute(transfer(payer, payee, 1))
        except Exception as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failures.append(error)

    pairs = zip(USERS, (*USERS[1:], USERS[0]), strict=True)
    threads = [threading.Thread(target=move, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose books hold money and one transfer that is still to be tried."""
    home = tmp_path_factory.mktemp("saved")
    with PostgresServer(home) as server, books_of(server.url) as owner, books_of(server.service_url) as service:
        migrations.upgrade(owner)
        grants.give(owner, SERVICE)
        orders = Orders(service, Snowflake(NodeLease(service)))
        for user in USERS:
            orders.execute(deposit(user, 10_000))
        orders.accept(replace(later(1, 2, 77), details=Details(reference="rent")))
    return home


@pytest.fixture(scope="module")
def file(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that was taken while money moved."""
    file = tmp_path_factory.mktemp("backups") / "wallet.dump"
    with (
        PostgresServer(home) as server,
        books_of(server.service_url) as service,
        load(service),
    ):
        # Some of it has moved already, however late the load began: beside three deposits and what is pending.
        assert wait_for(lambda: ask(server.url, "SELECT count(*) > 4 FROM transfers") is True, PATIENCE_S)
        done = backup(home, "dump", file, DATABASE_URL=server.url)
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    return file


def test_a_backup_is_for_its_owner_only_and_nothing_else_is_left(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.long  # a dump, a restore, and a service on each
def test_what_is_restored_balances_and_the_service_runs_on_it(file: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as stale, redis.Redis.from_url(stale.url) as client:
        client.set("of another time", "1")
    done = backup(tmp_path, "restore", file)
    assert done.stdout.startswith("restored 3 wallets and "), done.stderr
    with PostgresServer(tmp_path) as server, books_of(server.url) as books:
        # Before anybody else looks at them: how large its tables are, PostgreSQL was told by the restore.
        assert ask(server.url, "SELECT every(reltuples > 0) FROM pg_class WHERE relname IN ('entries', 'transfers')")
        check_books(books)
        assert sum(balances(books).values()) == len(USERS) * 10_000
        assert ask(server.service_url, "SELECT count(*) > 4 FROM transfers") is True
        assert ask(server.url, "SELECT count(*) FROM transfers WHERE status = 'pending'") == 1
        assert ask(server.url, "SELECT string_agg(reference, ' ') FROM transfer_references") == "rent"
        assert set(str(ask(server.url, "SELECT string_agg(tgname, ' ') FROM pg_trigger")).split()) >= {
            *GUARDS,
            *KEEPING,
        }
    run = Run(tmp_path, settings={"DEMO_WALLETS": "0"})
    try:
        state = run.wait_until_up()
        # The relay finds what was pending, and numbers what has happened until the backup and since.
        told = "SELECT last_event FROM event_head"
        ended = "SELECT count(*) FROM transfers WHERE status <> 'pending'"
        pending = "SELECT count(*) FROM transfers WHERE status = 'pending'"
        assert wait_for(lambda: ask(state["postgres"]["url"], pending) == 0, PATIENCE_S)
        assert ask(state["postgres"]["url"], ended) != 0
        assert wait_for(lambda: ask(state["postgres"]["url"], told) == ask(state["postgres"]["url"], ended), PATIENCE_S)
        status, answer = get(run, "/api/wallet/balance/v1")
        assert (status, answer["balance"]) == (
            200,
            ask(state["postgres"]["url"], "SELECT balance FROM wallets WHERE id = 1"),
        )
        with redis.Redis.from_url(state["redis"]["url"]) as client:
            assert client.exists("of another time") == 0
        with books_of(state["postgres"]["url"]) as books:
            check_books(books)
    finally:
        assert run.finish() == 0


def test_no_node_issues_ids_for_instants_before_the_restore(file: Path, tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        began_ms = ask(server.url, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        urls = {
            "DATABASE_URL": server.service_url,
            "OWNER_DATABASE_URL": server.url,
            "REDIS_URL": "redis://127.0.0.1:1",
        }
        # Without Redis nothing is restored; with it, all is. Without the cache's it is told what becomes of that.
        assert "make restore: REDIS_URL cannot be emptied" in backup(tmp_path, "restore", file, **urls).stderr
        with RedisServer(tmp_path) as redis_server, redis.Redis.from_url(redis_server.url) as client:
            client.set("of another time", "1")
            urls |= {"REDIS_URL": redis_server.url, "CACHE_REDIS_URL": "redis://127.0.0.1:1"}
            done = backup(tmp_path, "restore", file, **urls)
            assert done.returncode == 0, done.stderr
            assert done.stderr.startswith("make restore: CACHE_REDIS_URL cannot be reached ")
            assert client.dbsize() == 0
        with books_of(server.url) as books, books.connect() as connection:
            nodes = connection.execute(snowflake_nodes.select()).all()
            assert len(nodes) == 1024
            assert all(node.reserved_until_ms >= began_ms and node.holder is None for node in nodes)


def test_books_that_are_there_are_never_restored_over(home: Path, file: Path) -> None:
    done = backup(home, "restore", file)
    assert done.returncode == 1
    assert done.stderr.startswith("make restore: the database has ")
    with PostgresServer(home) as server, books_of(server.url) as books:
        check_books(books)


def test_what_is_no_backup_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"PGDMP" + bytes(100))
    done = backup(tmp_path / "home", "restore", tmp_path / "junk")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("make restore: pg_restore has failed: ")
    assert not (tmp_path / "home").exists()


def test_a_backup_of_something_else_is_refused(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "other") as server:
        done = backup(tmp_path, "dump", tmp_path / "file", DATABASE_URL=server.url)
    assert done.stderr.endswith("alembic_version, entries, snowflake_nodes, transfers, wallets are missing\n")
    assert not (tmp_path / "file").exists()


def test_a_file_that_exists_is_kept(home: Path, file: Path) -> None:
    before = file.read_bytes()
    done = backup(home, "dump", file)
    assert done.stderr == f"make backup: {file} exists already\n"
    assert file.read_bytes() == before


def test_without_a_database_there_is_nothing_to_save(tmp_path: Path) -> None:
    assert backup(tmp_path, "dump").stderr == f"make backup: there is no database in WALLET_HOME={tmp_path}\n"


@pytest.mark.parametrize("is_running", [True, False])
def test_a_home_is_saved_whether_its_service_runs_or_not(home: Path, file: Path, is_running: bool) -> None:
    run = Run(home) if is_running else None
    try:
        if run:
            run.wait_until_up()
            assert backup(home, "restore", file).stderr.startswith("make restore: already running on ")
        else:  # what a killed service leaves
            (home / "run" / "stack.json").write_text(json.dumps({"postgres": {"url": "postgresql://127.0.0.1:1/none"}}))
        done = backup(home, "dump")
        assert done.returncode == 0, done.stderr
        saved = Path(done.stdout.strip())
        assert saved.parent == home / "backups"
        saved.unlink()
    finally:
        if run:
            assert run.finish() == 0


def test_a_backup_of_a_newer_version_is_told_as_that(home: Path, tmp_path: Path) -> None:
    with PostgresServer(home) as server, books_of(server.url) as books:
        with books.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        done = backup(home, "dump", tmp_path / "newer", DATABASE_URL=server.url)
        assert done.returncode == 0, done.stderr
        with books.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": revision.NEWEST})
    done = backup(tmp_path / "home", "restore", tmp_path / "newer")
    assert "was written by a newer version of the service" in done.stderr


@pytest.mark.long  # a service before, and one after
def test_a_cache_of_its_own_tells_nobody_of_what_was_lost(file: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "cache") as cache, redis.Redis.from_url(cache.url) as client:
        settings = {"DEMO_WALLETS": "1", "CACHE_REDIS_URL": cache.url, "CACHE_TTL": "86400"}
        first = Run(tmp_path / "lost", settings=settings)
        try:
            first.wait_until_up()
            # Asked until it is cached: a process that has just started may not believe its cache yet.
            assert wait_for(lambda: get(first, "/api/wallet/balance/v1")[0] == 200 and bool(cached(client)), PATIENCE_S)
            lost = get(first, "/api/wallet/balance/v1")[1]["balance"]
        finally:
            assert first.finish() == 0
        assert cached(client)
        done = backup(tmp_path / "found", "restore", file, CACHE_REDIS_URL=cache.url)
        assert (done.returncode, done.stderr) == (0, "")
        second = Run(tmp_path / "found", settings=settings | {"DEMO_WALLETS": "0"})
        try:
            state = second.wait_until_up()
            true = ask(state["postgres"]["url"], "SELECT balance FROM wallets WHERE id = 1")
            assert true != lost
            assert get(second, "/api/wallet/balance/v1")[1]["balance"] == true
        finally:
            assert second.finish() == 0


def cached(client: redis.Redis) -> list[bytes]:
    return list(client.scan_iter("wallet:cache:entries:1"))


# Every way of saying where the database is


@pytest.fixture
def reachable(home: Path) -> Iterator[tuple[PostgresServer, Path]]:
    """The books' server, and the folder of a socket of its."""
    with TemporaryDirectory(prefix="wallet-") as folder:  # short, as a socket's path has to be
        Path(folder).chmod(0o777)
        with PostgresServer(home, settings={"unix_socket_directories": folder}) as server:
            yield server, Path(folder)


SPELLINGS = {
    "postgres": "postgres://{user}:{password}@127.0.0.1:{port}/wallet",
    "parameters": "postgresql:///wallet?user={user}&password={password}&host=127.0.0.1&port={port}",
    "options": "postgresql://{user}:{password}@127.0.0.1:{port}/wallet?sslmode=prefer&options=-c%20work_mem%3D8MB",
    "two hosts": "postgresql://{user}:{password}@127.0.0.1:1,127.0.0.1:{port}/wallet",
    "a socket": "postgresql://{user}:{password}@/wallet?host={folder}&port={port}",
    "~/.pgpass": "postgresql://{user}@127.0.0.1:{port}/wallet",
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_whatever_the_service_connects_to_can_be_saved(
    how: str, reachable: tuple[PostgresServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = reachable
    parts = urlsplit(server.url)
    url = SPELLINGS[how].format(user=parts.username, password=parts.password, port=parts.port, folder=folder)
    passwords = tmp_path / ".pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text(f"*:*:*:*:{parts.password}\n")
    given = {"HOME": str(tmp_path)} if how == "~/.pgpass" else {}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    engine = create_bounded_engine(
        url, timeouts_ms={"statement_timeout": 5_000}, pool_size=1, application_name="service"
    )
    assert readiness(engine) == "ok"
    engine.dispose()
    done = backup(tmp_path, "dump", tmp_path / "file", DATABASE_URL=url, **given)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_url_that_the_service_refuses_is_refused(tmp_path: Path) -> None:
    done = backup(tmp_path, "dump", DATABASE_URL="mysql://127.0.0.1/wallet")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("configuration error: DATABASE_URL: ")


def test_an_embedded_redis_that_is_in_use_is_not_emptied(file: Path, tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "elsewhere") as server, only_one(tmp_path / "home"):
        done = backup(tmp_path / "home", "restore", file, DATABASE_URL=server.url)
    assert done.returncode == 1
    assert done.stderr.startswith("make restore: already running on WALLET_HOME=")
