"""Old entries, and letting them leave, for tests."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, text

from models.audit.archived import Proof, prove
from models.ledger import archive_file
from models.ledger.archives import Archive, Archives

# What `age` makes of entries lies between these two.
OLD = datetime(2026, 2, 1, tzinfo=UTC)
BEFORE = datetime(2026, 3, 1, tzinfo=UTC)


def age(engine: Engine, where: str = "true", *, at: datetime = OLD) -> None:
    """Have entries been posted long ago; each a second after the one before it."""
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE entries SET created_at = CAST(:at AS timestamptz) + seq * interval '1 s' WHERE {where}"),  # noqa: S608
            {"at": at},
        )


def archive(engine: Engine, folder: Path, before: datetime = BEFORE) -> list[Archive]:
    """Let leave what is old, without a rest."""
    return list(Archives(engine, folder).run(before, rest=lambda _: None))


def proven(engine: Engine, folder: Path) -> Proof:
    """Have everything that has left proven."""
    proof = prove(engine, folder)
    assert proof.problems == []
    return proof


def openings(engine: Engine) -> dict[int, tuple[int, int]]:
    """Number and balance of the newest entry that has left, by wallet."""
    with engine.connect() as connection:
        return {row.wallet_id: (row.seq, row.balance) for row in connection.execute(text("SELECT * FROM openings"))}


def rows_of(engine: Engine, table: str) -> list[dict[str, Any]]:
    """All rows of a table, as a file would have them."""
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT * FROM {table}")).mappings().all()  # noqa: S608
    return [
        orjson.loads(orjson.dumps(dict(row), option=orjson.OPT_UTC_Z, default=lambda value: bytes(value).hex()))
        for row in found
    ]


def left_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All rows of a kind that the files of a folder have."""
    paths = sorted(folder.glob(archive_file.PATTERN))
    return [row for path in paths for each, row in archive_file.read(path)[1] if each == kind]


def identified(rows: list[dict[str, Any]]) -> list[tuple[tuple[str, Any], ...]]:
    """Rows in an order of their own, to be compared with others."""
    return sorted((tuple(sorted(row.items())) for row in rows), key=str)
