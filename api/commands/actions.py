"""``flask actions``: what administrators did."""

import click
import orjson
from flask.cli import with_appcontext

from api.commands.conclusion import concludes, examples
from api.commands.layout import facts_of, show_table
from api.contract.actions import ActionOut
from api.contract.fields import MAX_PAGE_SIZE
from api.running import services
from models.actions import record


@click.command(
    "actions",
    epilog=examples(
        "Examples:",
        "  flask actions",
        "  flask actions --limit 100 --json | jq -r 'select(.outcome != \"done\")'",
        "",
        "Exit status: 0 shown; 1 a fault; 2 wrong usage.",
    ),
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_PAGE_SIZE),
    default=30,
    show_default=True,
    help="How many of the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, as GET /api/actions/v1 shows one.")
@with_appcontext
@concludes
def command(limit: int, *, as_json: bool) -> None:
    """Show what administrators did, newest first: when, who, what, on what, from where, and what came of it.

    An outcome is done, unchanged, the code of a problem, or begun: then no end of it is known.
    """
    page = record.get_page(services().engine, size=limit)
    rows = [facts_of(ActionOut.of(each)) for each in page.actions]
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(row))
    else:
        show_table(["at", "who", "what", "on", "from", "outcome"], [[*row.values()] for row in rows])
    if page.next_id is not None:
        click.echo(f"(more than {limit}; GET /api/actions/v1 has all, page by page)", err=True)
