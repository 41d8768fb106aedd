"""What prepares a database: it waits for servers and for others, and refuses what nobody could work with."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
import redis
from sqlalchemy import Engine, text

from models.errors import Unavailable
from models.ledger.history import History
from models.ledger.orders import Orders
from models.schema import revision
from models.snowflake.ids import Snowflake
from ops.local.roles import SERVICE
from ops.local.servers import PostgresServer
from ops.prepare import DEMO_CENTS, open_demo_wallets
from tests import nursery
from tests.models.cache.caching import cache_at, hit, missed, put
from tests.models.ledger.ordering import balances, bounded_engine, deposit
from tests.project import ROOT


def prepare(url: str, owner_url: str, **settings: str) -> nursery.Completed:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "OWNER_DATABASE_URL": owner_url,
        "REDIS_URL": "redis://127.0.0.1:1",
        **settings,
    }
    return nursery.run([sys.executable, "-m", "ops.prepare"], cwd=ROOT, env=environment, text=True)


def test_a_demo_deposit_into_a_wallet_that_was_there_is_seen_by_whoever_reads_it_cached(
    engine: Engine, snowflake: Snowflake, redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client
    with cache_at(redis_url, engine) as reader, cache_at(redis_url, engine) as own:
        Orders(engine, snowflake, reader).execute(deposit(1, 5))
        put(reader, 1, 1, b"5")
        assert hit(reader, 1) == b"5"
        open_demo_wallets(engine, own)
        missed(reader, 1)
        assert balances(engine) == {1: DEMO_CENTS + 5, 2: DEMO_CENTS}
        put(reader, 1, 2, b"10005")
        open_demo_wallets(engine, own)
        assert hit(reader, 1) == b"10005"


# Databases that it cannot make ready


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def foreign(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """A database of another encoding, and which."""
    name = f"foreign_{secrets.token_hex(4)}"
    with closing(psycopg2.connect(postgres_server.admin_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        encoding = f"ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        cursor.execute(f"CREATE DATABASE {name} OWNER wallet {encoding}")
        yield postgres_server.url.rpartition("/")[0] + f"/{name}", request.param
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_that_cannot_hold_every_character_is_refused(foreign: tuple[str, str]) -> None:
    url, encoding = foreign
    done = prepare(url, url)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("cannot prepare the database: ")
    assert f"has the encoding {encoding}: make one with UTF8" in done.stderr
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert cursor.fetchone() == (0,)
    # Nor does anybody else work with it.
    with bounded_engine(url) as engine:
        assert revision.readiness(engine) == "unreachable"
        with pytest.raises(Unavailable):
            History(engine).get_balance(1)


def test_a_role_whose_texts_are_in_another_encoding_writes_what_it_means(
    postgres_server: PostgresServer, own_database_url: str
) -> None:
    with closing(psycopg2.connect(postgres_server.admin_url)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute("ALTER DATABASE own SET client_encoding = 'LATIN1'")
    with bounded_engine(own_database_url) as engine, engine.connect() as connection:
        assert connection.execute(text("SELECT char_length(:word)"), {"word": "\u20ac"}).scalar_one() == 1


def privileges(engine: Engine) -> bool:
    with engine.connect() as connection:
        query = text("SELECT has_column_privilege(:role, 'wallets', 'created_at', 'UPDATE')")
        return bool(connection.execute(query, {"role": SERVICE}).scalar_one())


def test_code_that_is_older_than_the_database_leaves_it_as_it_is(
    own_database_url: str, postgres_server: PostgresServer
) -> None:
    service_url = postgres_server.service_url.rpartition("/")[0] + "/own"
    with bounded_engine(own_database_url) as owner:
        with owner.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(text(f"GRANT UPDATE (created_at) ON wallets TO {SERVICE}"))
        done = prepare(service_url, own_database_url)
        assert done.returncode == 0, done.stderr
        assert privileges(owner)
        with owner.begin() as connection:
            connection.execute(text(revision.works_from("9999")))
        done = prepare(service_url, own_database_url)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("cannot prepare the database: it is too new for this version ")
        assert privileges(owner)
