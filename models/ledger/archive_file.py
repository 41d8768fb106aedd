"""Files that entries and transfers have left for: JSON lines, packed by gzip, whole or not there.

The first line tells what follows, and the digest of the file before it, so that the files are a chain:

    {"archive": {"format": 1, "number": 2, "previous": "<SHA-256 of file 1>", "before": "…", "wallets": 1, …}}
    {"entry": {"wallet_id": "7", "seq": 1, "transfer_id": "118…", "amount": 500, "balance_after": 500, …}}
    {"transfer": {"id": "118…", "kind": "deposit", "destination": "7", "amount": 500, "status": "posted", …}}

Columns are named as in the database; ids are strings, as everywhere in JSON. A file's name has its number and the
beginning of its own digest: the same content gives the same name, and no two contents share one. So nothing is ever
written over, whoever else writes to the same folder.
"""

import fcntl
import gzip
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FORMAT = 1
PATTERN = "archive-*.jsonl.gz"
_DRAFTS = ".archive-"
_IDS = frozenset({"wallet_id", "transfer_id", "counterparty", "id", "source", "destination"})

# Columns by name.
Row = Mapping[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first line. ``moved``, ``made``: cents, as in the table; strings, since sums may pass int64.

    ``previous``: the hexadecimal SHA-256 of the file before it; empty for the first. ``first``, ``last``: when the
    oldest and the newest of the entries were posted.
    """

    format: int = FORMAT
    number: int
    previous: str
    before: str
    wallets: int
    entries: int
    transfers: int
    moved: str
    made: str
    first: str
    last: str


class FileBroken(Exception):
    """It is not what was written; the message says in which way."""


def name_of(number: int, digest: bytes) -> str:
    """Return the name that a file of this number and content has."""
    return f"archive-{number:06}-{digest.hex()[:16]}.jsonl.gz"


def digest_of(path: Path) -> bytes:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder, be the only one to write to it, and tidy up what a killed one has left half-written.

    Raises:
        BlockingIOError: somebody else writes to it.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for draft in folder.glob(f"{_DRAFTS}*"):
            draft.unlink()
        yield
    finally:
        os.close(descriptor)


def write(folder: Path, head: Head, entries: Iterable[Row], transfers: Iterable[Row]) -> bytes:
    """Write a file, readable by its owner only; it is on the disk, whole, when this returns its digest."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=_DRAFTS)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Without name and time, so that the same content makes the same file.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.write(_line("archive", {each: getattr(head, each) for each in Head.__dataclass_fields__}))
                packed.writelines(_line("entry", row) for row in entries)
                packed.writelines(_line("transfer", row) for row in transfers)
            file.flush()
            os.fsync(file.fileno())
        digest = digest_of(draft)
        draft.replace(folder / name_of(head.number, digest))
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise
    _sync(folder)
    return digest


def read(path: Path) -> tuple[Head, Iterator[tuple[str, dict[str, Any]]]]:
    """Open a file: what its first line says, and then each row with what it is (``entry``, ``transfer``).

    Raises:
        FileBroken: here or while rows are read: it is no such file, or not all of it.
    """
    lines = _lines(path)
    kind, first = next(lines, ("nothing", {}))
    if kind != "archive" or first.get("format") != FORMAT:
        raise FileBroken("its first line is not an archive's")
    try:
        return Head(**first), lines
    except TypeError as error:
        raise FileBroken("its first line is not an archive's") from error


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with gzip.open(path) as file:
            for line in file:
                ((kind, row),) = orjson.loads(line).items()
                yield kind, {name: int(value) if name in _IDS and value is not None else value
                             for name, value in row.items()}  # fmt: skip
    except (OSError, EOFError, ValueError, AttributeError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise FileBroken(f"it cannot be read: {error}") from error


def _line(kind: str, row: Row) -> bytes:
    spelled = {name: _spelled(name, value) for name, value in row.items()}
    return orjson.dumps({kind: spelled}, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _spelled(name: str, value: object) -> object:
    if name in _IDS and value is not None:
        return str(value)
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


def _sync(folder: Path) -> None:
    """Make sure that the folder knows of the file after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_unknown(folder: Path, known: Sequence[str]) -> list[str]:
    """Return the names of files of this kind that are not among the known ones."""
    return sorted({path.name for path in folder.glob(PATTERN)} - set(known))
