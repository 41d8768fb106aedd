"""What transfers are called moves to a table of its own while the service goes on, once and whole."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from models.schema import migrations
from ops.local.processes import wait_for
from tests.books import CHECKS
from tests.models.ledger.listed import fill
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S
from tests.project import ROOT

PROMISE = CHECKS["what is found by a reference is what has it"]
SCRIPTS = ScriptDirectory(str(ROOT / "models" / "schema" / "migrations"))
MOVING: Any = SCRIPTS.get_revision("0019").module
# Two in five have a reference, so that copying these takes two slices.
COUNT = MOVING.SLICE * 3
NAMED = "SELECT count(*) FROM transfers WHERE reference IS NOT NULL"
COPIED = "SELECT count(*) FROM transfer_references"
OLD_INDEXES = "SELECT count(*) FROM pg_indexes WHERE indexname = ANY (:names)"


@pytest.fixture
def books(own_database_url: str) -> Iterator[Engine]:
    """Books that are not empty, as they are before the migration."""
    lists: Any = SCRIPTS.get_revision("0012").module
    with bounded_engine(own_database_url, statement_ms=20_000) as engine:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE transfer_references"))
            connection.execute(text("DROP FUNCTION note_reference, forget_reference CASCADE"))
            for name in MOVING.REPLACED:
                connection.execute(text(f"CREATE INDEX {name} ON {lists.INDEXES[name][0]}"))
            fill(connection, COUNT, users=5)
        go_back(engine)
        yield engine


def go_back(engine: Engine) -> None:
    """Have the database say that it is as before."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :of"), {"of": MOVING.down_revision})


def look(engine: Engine, query: str, **parameters: object) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(query), parameters).scalar()


def assert_moved(engine: Engine) -> None:
    assert look(engine, PROMISE) is None
    assert look(engine, COPIED) == look(engine, NAMED) > MOVING.SLICE
    assert look(engine, OLD_INDEXES, names=list(MOVING.REPLACED)) == 0


def test_all_that_has_a_reference_is_copied_also_what_comes_meanwhile(books: Engine) -> None:
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(migrations.upgrade, books)
        for first in range(COUNT + 1, 4 * COUNT, 100):
            with books.begin() as connection:
                fill(connection, 100, users=5, first=first)
            if moving.done():
                break
        moving.result(PATIENCE_S)
    assert_moved(books)
    assert look(books, "SELECT count(*) FROM transfers") == first + 99


def test_what_was_half_done_is_done_and_what_was_done_is_left_alone(books: Engine) -> None:
    with books.begin() as connection:
        connection.execute(text(MOVING.TABLE))
        connection.execute(
            text(
                "INSERT INTO transfer_references SELECT id, created_at, source, destination, reference"
                " FROM transfers WHERE reference IS NOT NULL AND id % 2 = 0"
            )
        )
    migrations.upgrade(books)
    assert_moved(books)
    go_back(books)
    before = look(books, "SELECT sum(xmin::text::bigint) FROM transfer_references")
    migrations.upgrade(books)
    assert look(books, "SELECT sum(xmin::text::bigint) FROM transfer_references") == before
    assert_moved(books)


WAITS = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%copied%'"


def test_what_leaves_while_it_is_copied_leaves_nothing_behind(books: Engine) -> None:
    migrations.upgrade(books)
    with books.begin() as connection:
        connection.execute(text("DELETE FROM transfer_references"))

    def copy() -> None:
        place: Mapping[Any, Any] | None = MOVING.BEGIN
        while place is not None:
            with books.begin() as connection:
                place = connection.execute(text(MOVING.COPY), dict(place)).mappings().first()

    with ThreadPoolExecutor(1) as pool:
        with books.begin() as connection:
            assert connection.execute(text("DELETE FROM transfers WHERE reference = 'invoice-0'")).rowcount
            copying = pool.submit(copy)
            assert wait_for(lambda: look(books, WAITS), PATIENCE_S)
        copying.result(PATIENCE_S)
    assert_moved(books)
