"""``flask collection``: the contract as a collection of requests, for Bruno."""

from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from api.commands.conclusion import concludes, examples
from api.contract.collection import make_collection
from api.contract.openapi import make_document


@click.command(
    "collection",
    epilog=examples(
        "Examples:",
        "  flask collection wallet-requests",
        "  AUTH_MODE=jwt JWT_SECRET=… flask collection wallet-requests",
        "",
        "Exit status: 0 written; 1 a fault; 2 wrong usage.",
    ),
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@with_appcontext
@concludes
def command(folder: Path) -> None:
    """Write a collection for Bruno into FOLDER: a request for each call, with credentials and examples.

    It is made of the OpenAPI document, with the way to sign in that the settings say. Files of the same names are
    replaced, and others left alone.
    """
    files = make_collection(make_document(current_app))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    click.echo(f"{len(files)} files in {folder}", err=True)
