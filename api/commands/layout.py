"""How facts are laid out for a terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import click
from pydantic import BaseModel

from models.ledger.import_file import FileRefused


def show_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one a line; what is not known is left out."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value is not None:
            # Pairs as JSON in ASCII: what callers wrote there may be anything, and is not to steer a terminal.
            click.echo(f"{name:<{width}}  {json.dumps(value) if isinstance(value, dict) else value}")


def show_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows with tabs between their fields, as ``cut`` and spreadsheets take them."""
    for row in (header, *rows):
        click.echo("\t".join("" if field is None else str(field) for field in row))


def refuse_file(name: str, error: FileRefused, done: str) -> NoReturn:
    """Print on standard error what is wrong with a file, as compilers do, and end: it is not ``done``."""
    for line, what in error.problems:
        click.echo(f"{name}:{line}: {what}", err=True)
    if (more := error.count - len(error.problems)) > 0:
        click.echo(f"(and {more} more)", err=True)
    click.echo(f"Error: {name} is not {done}, nothing moved", err=True)
    sys.exit(1)


def facts_of(model: BaseModel) -> dict[str, object]:
    """Return a model's fields as the API would spell them."""
    return model.model_dump(mode="json")
