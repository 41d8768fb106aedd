"""What a command writes to, and how it shows how far it is."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click


@contextmanager
def opened(output: Path) -> Iterator[IO[str]]:
    """Open what is written to; a file is replaced at the end, so that half of it is never taken for a whole."""
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


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a terminal how far it is; gives what tells that so many more are done."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update
