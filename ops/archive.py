"""Lets old entries leave the database for files, and proves such files: what ``make archive BEFORE=… FOLDER=…`` runs.

    python -m ops.archive move DAY FOLDER
    python -m ops.archive verify FOLDER

As the owner of the tables, who alone may delete; the service may be running. The folder then is the only place where
these entries are: keep it as well as the database, and a copy of it elsewhere.
"""

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

import config
from config import StackSettings, load
from models.audit import archived
from models.database.faults import first_line
from models.errors import WalletServiceError
from models.ledger.archives import Archives
from observe import logs
from ops.backup import engine_of, reachable
from ops.local.processes import StackError

# Between two slices the service has as long for itself as the last one took, up to this.
MOST_REST_S = 10.0


def move(engine: Engine, before: datetime, folder: Path) -> int:
    """Let what is older than an instant leave, tell of each file, and make the room usable again; the exit status."""
    archives = Archives(engine, folder)
    entries = transfers = 0
    for done in archives.run(before, rest=lambda took_s: time.sleep(min(took_s, MOST_REST_S))):
        print(f"{done.name}\t{done.entries} entries of {done.wallets} wallets, {done.transfers} transfers", flush=True)
        entries, transfers = entries + done.entries, transfers + done.transfers
    if entries:
        archives.vacuum()
    print(f"{entries} entries and {transfers} transfers have left", file=sys.stderr)
    return 0


def verify(engine: Engine, folder: Path) -> int:
    """Compare the files with the database, and tell what is wrong; the exit status."""
    proof = archived.prove(engine, folder)
    for problem in proof.problems:
        print(problem)
    for name in proof.unknown:
        print(f"{name}: unknown to the database; a run that was killed leaves one, whose rows are all still there",
              file=sys.stderr)  # fmt: skip
    read = f"{proof.archives} files, {proof.entries} entries, {proof.transfers} transfers"
    print(f"{read}: {'as the database knows them' if not proof.problems else 'something is wrong'}", file=sys.stderr)
    return 1 if proof.problems else 0


def main(arguments: list[str]) -> int:
    """Move or verify; the exit status."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m ops.archive", description="Let old entries leave, or prove files.")
    commands = parser.add_subparsers(dest="command", required=True)
    moving = commands.add_parser("move", help="let entries leave")
    moving.add_argument(
        "before", type=_day, metavar="DAY", help="YYYY-MM-DD: what was posted before it, in UTC, leaves"
    )
    moving.add_argument("folder", type=Path, help="where the files are, and no other database's")
    commands.add_parser("verify", help="prove the files").add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    logs.configure("WARNING", service="archive")
    try:
        with reachable(load(StackSettings)) as url, engine_of(url) as engine:
            return move(engine, given.before, given.folder) if given.command == "move" else verify(engine, given.folder)
    except config.ConfigurationError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    except (StackError, WalletServiceError, OSError, DBAPIError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
        print(f"make archive: {first_line(cause) if isinstance(cause, DBAPIError) else error}", file=sys.stderr)
        return 1


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a day like 2026-12-31: {text}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
