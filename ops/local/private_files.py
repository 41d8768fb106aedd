"""Small files that nobody but their owner may read: passwords, ports, and who runs."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace a file of mode 0600 in one step: readers see the old text or the new one.

    Raises:
        OSError: the old one is still there.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        remove(draft)
        raise


def remove(path: Path) -> None:
    """Remove a file of ours that is of no use any more; where that cannot be done it does no harm."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def secret(path: Path) -> str:
    """A password kept in a file, generated when it is first asked for."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()
