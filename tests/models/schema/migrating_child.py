"""Migrates a database with a test's own migrations on top: URL, their folder, and seconds a statement may take."""

import sys
from pathlib import Path

from models.schema import migrations
from models.schema.migrations import exclusive, progress
from tests.models.ledger.ordering import bounded_engine


def main(url: str, folder: str, timeout_s: str) -> None:
    """Migrate on an engine on which every payment would fail, and say all the while what is going on."""
    migrations.VERSIONS.append(Path(folder))
    progress.TELL_S = exclusive.TELL_S = 0.1
    with bounded_engine(url, lock_ms=10, statement_ms=100) as engine:
        migrations.upgrade(engine, timeout_s=float(timeout_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
