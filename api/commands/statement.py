"""``flask statement``: a user's entries between two days, as a file."""

import csv
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO

import click
import orjson
from flask.cli import with_appcontext

from api.commands.conclusion import concludes, examples
from api.commands.layout import facts_of
from api.commands.parameters import ID
from api.contract.schemas import TransactionOut
from api.running import services
from models.ledger.statements import Statement, Statements

DAY = click.DateTime(["%Y-%m-%d"])
# A spreadsheet takes a cell that begins like this for a formula. Numbers are not text, and stay as they are.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
# What stands in transaction_type of the lines around the entries.
OPENING, CLOSING = "opening_balance", "closing_balance"


@click.command(
    "statement",
    epilog=examples(
        "Examples:",
        "  flask statement --user 1 --from 2026-11-01 --to 2026-11-30 --format csv > november.csv",
        "  flask statement --user 1 --from 2026-11-25 --to 2026-11-25 --format json --output today.json",
        "",
        "Exit status: 0 written whole; 1 no such wallet, or a fault (a file is then as it was before); 2 wrong usage.",
    ),
)
@click.option("--user", "user_id", type=ID, required=True, help="Whose wallet.")
@click.option(
    "--from",
    "first_day",
    type=DAY,
    metavar="YYYY-MM-DD",
    required=True,
    help="The first day, from its beginning in UTC.",
)
@click.option(
    "--to", "last_day", type=DAY, metavar="YYYY-MM-DD", required=True, help="The last day, to its end in UTC."
)
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    help="A file, readable by its owner only, that is replaced once all is written. [default: standard output]",
)
@with_appcontext
@concludes
def command(user_id: int, first_day: datetime, last_day: datetime, kind: str, output: Path) -> None:
    """Write a user's statement: opening balance, entries oldest first, closing balance. Amounts are cents.

    Both days belong to it, and days are UTC's: --from 2026-11-01 --to 2026-11-30 is all of November. What is posted
    while it is being written is not in it. CSV has the balances in a first and a last line of their own.
    """
    if last_day < first_day:
        raise click.BadParameter("is before --from", param_hint="--to")
    statements, days = Statements(services().engine), (first_day.date(), last_day.date())
    statement = statements.get_statement(user_id, *days)
    entries = map(TransactionOut.of, statements.entries(statement))
    write = _write_csv if kind == "csv" else _write_json
    with (
        _opened(output) as file,
        click.progressbar(
            entries, length=len(statement.seqs), label="entries", file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as shown,
    ):
        write(file, statement, days, shown)


def _write_csv(file: IO[str], statement: Statement, days: tuple[date, date], entries: Iterable[TransactionOut]) -> None:
    columns = [*TransactionOut.model_fields]
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    first, last = (day.isoformat() for day in days)
    writer.writerow(
        {"transaction_type": OPENING, "balance_after": statement.opening_balance_cents, "created_at": first}
    )
    writer.writerows({name: _cell(value) for name, value in facts_of(entry).items()} for entry in entries)
    writer.writerow({"transaction_type": CLOSING, "balance_after": statement.closing_balance_cents, "created_at": last})


def _write_json(
    file: IO[str], statement: Statement, days: tuple[date, date], entries: Iterable[TransactionOut]
) -> None:
    """Write one object, a line for each entry, so that neither this end nor the other needs to hold it all."""
    head = {
        "user_id": str(statement.wallet_id),
        "from": days[0],
        "to": days[1],
        "opening_balance": statement.opening_balance_cents,
        "closing_balance": statement.closing_balance_cents,
    }
    file.write(orjson.dumps(head).decode().removesuffix("}") + ',"transactions":[')
    separator = "\n"
    for entry in entries:
        file.write(separator + orjson.dumps(facts_of(entry)).decode())
        separator = ",\n"
    file.write("\n]}\n")


def _cell(value: object) -> object:
    """Keep a text from being run by the spreadsheet that opens it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_MARKS) else value


@contextmanager
def _opened(output: Path) -> Iterator[IO[str]]:
    """Open what is written to; a file is replaced at the end, so that half a statement is never taken for a whole."""
    if str(output) == "-":
        yield sys.stdout
    elif output.exists() and not output.is_file():  # a pipe, a terminal, /dev/null: not to be replaced
        with output.open("w") as file:
            yield file
    else:
        descriptor, draft = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            Path(draft).replace(output)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
