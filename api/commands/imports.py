"""``flask import``: open many wallets at once."""

from typing import BinaryIO

import click
from flask.cli import with_appcontext

from api.commands.acting import acting
from api.commands.conclusion import concludes, examples
from api.commands.layout import refuse_file
from api.commands.output import progress
from api.commands.parameters import Key
from api.running import services
from models.ledger import import_file
from models.ledger.import_file import FileRefused
from models.ledger.imports import Imports, content_id

MAX_ID_LENGTH = 200


@click.command(
    "import",
    epilog=examples(
        "Examples:",
        "  flask import wallets.csv --dry-run     # what is wrong with it, what it would do",
        "  flask import wallets.csv",
        "",
        "wallets.csv:",
        "  user_id,balance",
        "  7,10000",
        "  8,0",
        "",
        "Exit status: 0 done, now or before; 1 refused, or a fault: nothing moved; 2 wrong usage.",
    ),
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Check the file and the wallets there are, and write nothing.")
@click.option("--import-id", type=Key(MAX_ID_LENGTH), help="What makes a repetition one; by default the rows do.")
@with_appcontext
@concludes
def command(file: BinaryIO, import_id: str | None, *, dry_run: bool) -> None:
    """Open a wallet for every line of FILE (- is standard input), with a balance in cents: all of them, or none.

    Each balance becomes a deposit in the ledger. The whole file is checked first. A user who has a wallet already is
    a reason to refuse all of it. Run again with the same file, it says that it was done, and moves nothing.
    """
    try:
        openings = import_file.read(file)
    except FileRefused as error:
        refuse_file(file.name, error, "imported")
    name = import_id or content_id(openings)
    imports = Imports(services().engine, services().snowflake)
    key = f"import:{name}"
    if dry_run:
        done = imports.check(openings, key=key)
    else:
        count = sum(1 for opening in openings if opening.balance_cents)
        with acting("wallet.import", on=name) as act, progress(count, "wallets") as tell:
            done = imports.run(openings, key=key, progress=tell)
            act.note(changed=not done.replayed)
    did = "done before, nothing moved:" if done.replayed else "would open" if dry_run else "opened"
    click.echo(f"{did} {done.wallets} wallets with {done.amount_cents} cents (import id {name})")
