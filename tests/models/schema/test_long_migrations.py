"""A migration may take hours, beside a service that goes on; killed, it is run again; a second one waits for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import STDOUT
from sys import executable
from typing import Any

import pytest
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from models.ledger.orders import Orders
from models.schema import migrations, revision
from models.schema.migrations.exclusive import alone
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from ops.local.processes import wait_for
from tests.models.ledger.ordering import balances, bounded_engine, deposit
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT

HEADER = """
from alembic import op
from models.schema import revision as known
from models.schema.migrations import online

revision = "9000"
down_revision = {after!r}
branch_labels = depends_on = None


def upgrade():
"""
# Longer than a statement of a payment may take there, and than the server may then be silent.
SLOW = '    op.execute("CREATE TABLE made (id int)")\n    op.execute("SELECT pg_sleep(2.5)")\n'
INDEX = '    online.create_index("entries_by_transfer", "entries (transfer_id)")\n'
COLUMN = '    op.execute("ALTER TABLE wallets ADD COLUMN made int")\n'


@pytest.fixture
def books(own_database_url: str) -> Iterator[Engine]:
    """The books of a service that was migrated before."""
    with bounded_engine(own_database_url, statement_ms=20_000, idle_ms=60_000) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a migration of the test's is put."""
    (tmp_path / "versions").mkdir()
    return tmp_path / "versions"


def write(folder: Path, body: str) -> None:
    (folder / "9000_own.py").write_text(HEADER.format(after=revision.NEWEST) + body)


class Migrating(Forked):
    """A process that migrates, and what it says."""

    def __init__(self, url: str, folder: Path, name: str = "one", timeout_s: float = 60.0) -> None:
        self.said = folder.parent / name
        command = [executable, "-m", "tests.models.schema.migrating_child", url, str(folder), str(timeout_s)]
        with self.said.open("w") as out:
            super().__init__(command, cwd=ROOT, stdout=out, stderr=STDOUT)

    def has_said(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.said.read_text().splitlines())


def look(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar()


def is_done(engine: Engine) -> bool:
    return bool(look(engine, "SELECT version_num = '9000' FROM alembic_version"))


@contextmanager
def transaction(engine: Engine, *statements: str) -> Iterator[Connection]:
    """Somebody whose transaction stays open."""
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        try:
            yield connection
        finally:
            connection.rollback()


WRITING = "INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after) VALUES (1, 1, 1, 1, 5, 5)"
IS_BUILT = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('entries_by_transfer')"
# For twice as long as a statement may wait that others wait behind.
HAS_WAITED = """
    SELECT count(*) > 0 FROM pg_stat_progress_create_index JOIN pg_stat_activity USING (pid)
    WHERE phase LIKE 'waiting for %' AND clock_timestamp() - query_start > interval '1s'
"""
IS_LOCKED = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7246011"


def test_a_statement_takes_longer_than_any_payments_may(books: Engine, own_database_url: str, folder: Path) -> None:
    write(folder, SLOW)
    with Migrating(own_database_url, folder) as migrating:
        assert wait_for(lambda: migrating.has_said("migrating", "pg_sleep"), PATIENCE_S)
        assert migrating.wait(PATIENCE_S) == 0, migrating.said.read_text()
    assert is_done(books)
    assert revision.readiness(books) == "ok"


def test_a_migration_that_was_killed_is_undone_and_run_again(
    books: Engine, own_database_url: str, folder: Path
) -> None:
    write(folder, SLOW)
    with Migrating(own_database_url, folder) as migrating:
        assert wait_for(lambda: migrating.has_said("migrating", "pg_sleep"), PATIENCE_S)
        migrating.kill()
    # What it had begun on the server ends with it.
    assert wait_for(lambda: not look(books, IS_LOCKED), PATIENCE_S)
    assert look(books, "SELECT to_regclass('made')") is None
    with Migrating(own_database_url, folder) as again:
        assert again.wait(PATIENCE_S) == 0, again.said.read_text()
    assert look(books, "SELECT to_regclass('made')") is not None


def test_an_index_that_was_left_half_built_is_made_anew(books: Engine, own_database_url: str, folder: Path) -> None:
    write(folder, INDEX)
    with transaction(books, WRITING):
        with Migrating(own_database_url, folder) as migrating:
            assert wait_for(lambda: look(books, HAS_WAITED), PATIENCE_S), migrating.said.read_text()
            assert wait_for(lambda: migrating.has_said("migrating", "CREATE INDEX", "waiting for"), PATIENCE_S)
            migrating.kill()
        assert wait_for(lambda: not look(books, IS_LOCKED), PATIENCE_S)
    assert look(books, IS_BUILT) is False
    assert not is_done(books)
    with Migrating(own_database_url, folder) as again:
        assert again.wait(PATIENCE_S) == 0, again.said.read_text()
    assert look(books, IS_BUILT) is True
    assert is_done(books)


def test_an_index_that_was_built_and_not_recorded_is_left_alone(
    books: Engine, own_database_url: str, folder: Path
) -> None:
    with books.begin() as connection:
        connection.execute(text("CREATE INDEX entries_by_transfer ON entries (transfer_id)"))
    before = look(books, "SELECT 'entries_by_transfer'::regclass::oid")
    write(folder, INDEX)
    with Migrating(own_database_url, folder) as migrating:
        assert migrating.wait(PATIENCE_S) == 0, migrating.said.read_text()
    assert look(books, "SELECT 'entries_by_transfer'::regclass::oid") == before
    assert is_done(books)


def test_a_second_one_waits_for_the_first_and_neither_for_the_other(
    books: Engine, own_database_url: str, folder: Path
) -> None:
    """A second one that waited in PostgreSQL would have a snapshot, for which the building of the index waits."""
    write(folder, INDEX)
    with ExitStack() as stack:
        with transaction(books, WRITING):
            first = stack.enter_context(Migrating(own_database_url, folder, "first"))
            assert wait_for(lambda: look(books, HAS_WAITED), PATIENCE_S), first.said.read_text()
            second = stack.enter_context(Migrating(own_database_url, folder, "second"))
            assert wait_for(lambda: second.has_said("waiting for another", "bounded at 127.0.0.1"), PATIENCE_S)
        assert [each.wait(PATIENCE_S) for each in (first, second)] == [0, 0], second.said.read_text()
    assert look(books, IS_BUILT) is True


def test_a_table_that_is_in_use_holds_a_migration_up_and_no_payment(
    books: Engine, own_database_url: str, folder: Path
) -> None:
    write(folder, COLUMN)
    orders = Orders(books, Snowflake(NodeLease(books)))
    with ExitStack() as stack:
        with transaction(books, "LOCK TABLE wallets IN ACCESS SHARE MODE"):
            migrating = stack.enter_context(Migrating(own_database_url, folder))
            assert wait_for(lambda: migrating.has_said("a table is in use"), PATIENCE_S)
            orders.execute(deposit(1, 5))
            assert migrating.poll() is None
        assert migrating.wait(PATIENCE_S) == 0, migrating.said.read_text()
    assert balances(books) == {1: 5}
    assert look(books, "SELECT made FROM wallets") is None


@pytest.fixture
def with_versions(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[str], None]:
    """Have this process know a migration of the test's."""
    monkeypatch.setattr(migrations, "VERSIONS", [*migrations.VERSIONS, folder])
    return lambda body: write(folder, body)


def test_what_takes_longer_than_a_migration_may_breaks_off(books: Engine, with_versions: Callable[[str], None]) -> None:
    with_versions(SLOW)
    with pytest.raises(OperationalError, match="statement timeout"):
        migrations.upgrade(books, timeout_s=0.2)
    assert look(books, "SELECT to_regclass('made')") is None


def test_who_waits_for_longer_says_for_whom(books: Engine) -> None:
    with alone(books), pytest.raises(TimeoutError, match=r"process \d+ \(bounded at 127\.0\.0\.1\) has been changing"):
        migrations.upgrade(books, timeout_s=0.2)


def test_a_table_that_stays_in_use_is_the_end(books: Engine, with_versions: Callable[[str], None]) -> None:
    with_versions(COLUMN)
    with (
        transaction(books, "LOCK TABLE wallets IN ACCESS SHARE MODE"),
        pytest.raises(OperationalError, match="lock timeout"),
    ):
        migrations.upgrade(books, timeout_s=0.9)


def test_afterwards_connections_are_as_bounded_as_before(books: Engine) -> None:
    migrations.upgrade(books)
    assert look(books, "SHOW statement_timeout") == "20s"
    assert look(books, "SHOW enable_seqscan") == "off"
    assert not look(books, IS_LOCKED)


# Code that is older than the database


def test_a_database_that_is_newer_works_until_it_says_that_it_does_not(
    books: Engine, with_versions: Callable[[str], None]
) -> None:
    with_versions('    op.execute(known.works_from("9000"))\n')
    with books.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '8999'"))
    assert revision.readiness(books) == "ok"
    with pytest.raises(CommandError):
        migrations.upgrade(books)
    with books.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": revision.NEWEST})
    migrations.upgrade(books)
    assert revision.readiness(books) == "too new"
    with books.begin() as connection:
        connection.execute(text(revision.works_from(revision.NEWEST)))
    assert revision.readiness(books) == "ok"
