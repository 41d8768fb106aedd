"""Steps of a migration that may take hours while the service goes on: they lock nobody out, and are in no transaction.

What runs outside a transaction is not undone when it breaks off. So each of these finds out what an earlier try has
left, and a migration that uses one consists of such steps alone: it may be run again from its start.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import text

from models.schema.migrations.exclusive import LOCK_TIMEOUT_MS

_FIND = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def create_index(name: str, on: str, *, unique: bool = False) -> None:
    """Build an index beside whatever goes on. One that an earlier try has left half-built is dropped first.

    Args:
        name: its name.
        on: the rest of the statement, from the table on: ``transfers (reference) WHERE reference IS NOT NULL``.
        unique: whether it refuses what is there already.
    """
    with _concurrently():
        is_valid = op.get_bind().execute(_FIND, {"name": name}).scalar()
        if is_valid:
            return
        if is_valid is not None:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
        op.execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY {name} ON {on}")


def drop_index(name: str) -> None:
    """Drop an index without locking anybody out, if it is there."""
    with _concurrently():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def has_index(name: str) -> bool:
    """Whether there is such an index, whole."""
    return bool(op.get_bind().execute(_FIND, {"name": name}).scalar())


def in_slices(statement: str, begin: Mapping[str, Any]) -> None:
    """Run a statement that is safe to repeat again and again, each time from where the last has ended.

    It is to walk along an index: PostgreSQL is made not to go through the table and sort it for each slice.

    Args:
        statement: returns one row, of what it is given next; or none, when there is nothing more.
        begin: what it is given first.
    """
    with _concurrently():
        op.execute("SET enable_seqscan = off; SET enable_sort = off")
        try:
            place: Mapping[Any, Any] | None = begin
            while place is not None:
                place = op.get_bind().execute(text(statement), dict(place)).mappings().first()
        finally:
            op.execute("SET enable_seqscan = on; SET enable_sort = on")


def one_by_one(statements: Iterable[str]) -> None:
    """Run statements that are safe to repeat, each by itself.

    Each lets go of its table before the next one takes its own. In one transaction, two of them and a payment could
    wait for each other.
    """
    with op.get_context().autocommit_block():
        for statement in statements:
            op.execute(statement)


def add_check(table: str, name: str, rule: str) -> None:
    """Have new rows keep a rule at once, then look whether those that are there do, beside whatever goes on."""
    whole = f"{table}_{name}"
    drop = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {whole}"
    one_by_one(
        [
            f"{drop}, ADD CONSTRAINT {whole} CHECK ({rule}) NOT VALID",
            f"ALTER TABLE {table} VALIDATE CONSTRAINT {whole}",
        ]
    )


@contextmanager
def _concurrently() -> Iterator[None]:
    """Wait for those who use the table for as long as it takes: nobody waits behind us."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
