"""What stands on a command line, read and bounded."""

import click

from models.ledger.transfer import MAX_CENTS, MAX_ID

ID = click.IntRange(1, MAX_ID)
CENTS = click.IntRange(0, MAX_CENTS)


class Key(click.ParamType[str]):
    """A name for what must not be done twice."""

    name = "key"

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take printable characters only: what is no text to the terminal is none to the database."""
        if not (1 <= len(value) <= self._max_length and value.isprintable()):
            self.fail(f"must have 1 to {self._max_length} printable characters", param, ctx)
        return value
