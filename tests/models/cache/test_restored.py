"""What is cached belongs to the books it was read from: after a restore, by whatever tool, nobody is told of it."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from models.cache.wallet_cache import Miss, WalletCache
from models.schema import migrations
from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests.models.cache.caching import FIELD, cache_at, hit, missed, put
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S

LOST = b"what a balance was when the books were lost"


@pytest.fixture
def restore(postgres_server: PostgresServer, own_database_url: str) -> Callable[[str], None]:
    """Restores a database, or the tables in it, as somebody's own tools would."""
    saved = f"saved_{secrets.token_hex(4)}"
    administer(postgres_server, f"CREATE DATABASE {saved} OWNER wallet TEMPLATE own")

    def restore(what: str) -> None:
        if what == "the database":
            copy = f"CREATE DATABASE own OWNER wallet TEMPLATE {saved}"
            administer(postgres_server, "DROP DATABASE own WITH (FORCE)", copy)
        else:
            with closing(psycopg2.connect(own_database_url)) as connection, connection.cursor() as cursor:
                cursor.execute("TRUNCATE wallets, entries, transfers")
                connection.commit()

    return restore


def administer(server: PostgresServer, *statements: str) -> None:
    with closing(psycopg2.connect(server.admin_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def books(own_database_url: str) -> Iterator[Engine]:
    """The way of a process to the database of its own."""
    with bounded_engine(own_database_url) as engine:
        yield engine


def is_told_no_more(cache: WalletCache) -> bool:
    return isinstance(cache.look(1, FIELD), Miss)


@pytest.mark.parametrize("what", ["the database", "its tables"])
def test_a_process_that_starts_after_a_restore_is_not_told_of_what_was_lost(
    what: str, restore: Callable[[str], None], own_database_url: str, redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client  # asked for to be emptied
    with bounded_engine(own_database_url) as before, cache_at(redis_url, before) as cache:
        put(cache, 1, 7, LOST)
    with bounded_engine(own_database_url) as same, cache_at(redis_url, same) as cache:
        assert hit(cache, 1) == LOST
    restore(what)
    with bounded_engine(own_database_url) as after, cache_at(redis_url, after) as cache:
        missed(cache, 1)


def test_a_process_that_runs_through_a_restore_notices_with_its_next_connection(
    books: Engine, restore: Callable[[str], None], redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client
    with cache_at(redis_url, books) as cache:
        put(cache, 1, 7, LOST)
        assert hit(cache, 1) == LOST
        restore("the database")

        def has_connected() -> bool:
            try:
                with books.connect() as connection:
                    return connection.execute(text("SELECT 1")).scalar() == 1
            except SQLAlchemyError:
                return False

        assert wait_for(has_connected, PATIENCE_S)
        assert wait_for(lambda: is_told_no_more(cache), PATIENCE_S)


def test_a_server_that_goes_on_with_older_files_has_other_books(
    tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client
    server = PostgresServer(tmp_path)
    with server, bounded_engine(server.url) as engine:
        migrations.upgrade(engine)
    kept = shutil.copytree(server.data, tmp_path / "kept", copy_function=shutil.copy2)
    with server, bounded_engine(server.url) as engine, cache_at(redis_url, engine) as cache:
        put(cache, 1, 7, LOST)
        assert hit(cache, 1) == LOST
    owner = server.data.stat()
    shutil.rmtree(server.data)
    shutil.copytree(kept, server.data)
    for path in (server.data, *server.data.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    server.data.chmod(0o700)
    with server, bounded_engine(server.url) as engine, cache_at(redis_url, engine) as cache:
        missed(cache, 1)


def test_books_that_nobody_has_touched_stay_the_same(
    books: Engine, own_database_url: str, redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client
    with bounded_engine(own_database_url) as other, cache_at(redis_url, books) as cache:
        put(cache, 1, 7, LOST)
        with other.begin() as connection:
            connection.execute(text("INSERT INTO wallets (id) VALUES (1)"))
        books.dispose()
        with cache_at(redis_url, other) as another:
            assert hit(another, 1) == LOST
        assert hit(cache, 1) == LOST
