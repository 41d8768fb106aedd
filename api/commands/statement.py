"""``flask statement``: a user's entries between two days, as a file."""

from datetime import datetime
from pathlib import Path

import click
from flask.cli import with_appcontext

from api.commands.conclusion import concludes, examples
from api.commands.output import opened, progress
from api.commands.parameters import ID
from api.contract.statement_file import Days, Format, spell
from api.contract.wallets import TransactionOut
from api.running import services
from models.ledger.history import HistoryEntry
from models.ledger.statements import Statements

DAY = click.DateTime(["%Y-%m-%d"])


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
@click.option("--format", "kind", type=click.Choice([each.value for each in Format]), default="csv", show_default=True)
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
    statements, days = Statements(services().engine), Days(first_day.date(), last_day.date())
    statement = statements.get_statement(user_id, *days)
    with opened(output) as file, progress(len(statement.seqs), "entries") as tell:

        def show(entry: HistoryEntry) -> TransactionOut:
            tell(1)
            return TransactionOut.of(entry)

        file.writelines(spell(Format(kind), statement, days, map(show, statements.entries(statement))))
