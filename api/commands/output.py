"""What a command writes to."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


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
