"""How facts are laid out for a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence

import click
from pydantic import BaseModel


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


def facts_of(model: BaseModel) -> dict[str, object]:
    """Return a model's fields as the API would spell them."""
    return model.model_dump(mode="json")
