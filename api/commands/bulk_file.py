"""Reading a file of transfers, CSV or JSON: all of it is sound, or it is refused with what is wrong, line by line.

Each line is held against the model that the API reads its bodies with, so that what a file may say is what a body may.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from api.calls.problems import ApiError
from api.contract.checking import validate
from api.contract.transfers import TransferBody
from api.contract.validation import parse
from models.ledger.bulks import BulkItem
from models.ledger.import_file import MAX_SHOWN, FileRefused, Problem
from models.ledger.transfer import MAX_CENTS

# All of them are in memory until the last one is final.
MAX_LINES = 1_000_000
MAX_BYTES = 256 * 1024 * 1024
NEEDED, ALLOWED = ("destination_user_id", "amount"), ("description", "reference")
METADATA = "metadata."

_INTEGER = re.compile(r"-?[0-9]{1,19}")


class Line(NamedTuple):
    """A transfer, and where it stands: in which line of CSV, as which item of JSON, counted from 1."""

    number: int
    item: BulkItem


class BulkFile(NamedTuple):
    """What is to be sent, and the SHA-256 of the bytes that say so, in hexadecimal."""

    digest: str
    lines: list[Line]


def read(path: Path, *, user_id: int, most: int = MAX_LINES) -> BulkFile:
    """Read a file: JSON if its name ends with ``.json``, otherwise CSV in UTF-8.

    Args:
        path: the file.
        user_id: who pays, which nobody does to himself.
        most: how many transfers it may have.

    Raises:
        FileRefused: anything at all is wrong with it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    check = _Check(user_id, most)
    if len(raw) > MAX_BYTES:
        check.complain(1, f"the file is larger than {MAX_BYTES} bytes")
        check.conclude()
    items = _json_items(raw, check) if path.suffix.lower() == ".json" else _csv_items(raw, check)
    lines = list(check.sound(items))
    check.conclude()
    return BulkFile(hashlib.sha256(raw).hexdigest(), lines)


class _Check:
    """Keeps what is sound apart from what is wrong."""

    def __init__(self, user_id: int, most: int) -> None:
        self._user_id = user_id
        self._most = most
        self._problems: list[Problem] = []
        self._count = 0

    def sound(self, items: Iterable[tuple[int, Any]]) -> Iterator[Line]:
        """Yield what may be sent."""
        number, left_cents = 0, MAX_CENTS
        for count, (number, given) in enumerate(items, 1):
            if count > self._most:
                self.complain(number, f"more than {self._most} transfers")
                return
            try:
                body = validate(TransferBody, given, what="line")
            except ApiError as error:
                self.complain(number, error.detail.removeprefix("line: "))
                continue
            if body.destination_user_id == self._user_id:
                self.complain(number, "destination_user_id: money cannot be transferred to oneself")
            left_cents -= body.amount
            yield Line(number, BulkItem(body.destination_user_id, body.amount, body.details))
        if left_cents < 0:
            self.complain(number, "together they are more than a wallet can hold, 2^63-1 cents")
        if not number and not self._count:
            self.complain(1, "there are no transfers in it")

    def complain(self, line: int, what: str) -> None:
        """Note what is wrong."""
        self._count += 1
        if len(self._problems) < MAX_SHOWN:
            self._problems.append(Problem(line, what))

    def conclude(self) -> None:
        """Refuse the file, if anything is wrong.

        Raises:
            FileRefused: something is.
        """
        if self._count:
            raise FileRefused(self._problems, self._count)


def _json_items(raw: bytes, check: _Check) -> Iterator[tuple[int, Any]]:
    try:
        given = parse(raw)
    except ApiError as error:
        check.complain(1, error.detail.removeprefix("body: "))
        return
    except ValueError:
        check.complain(1, "not valid JSON")
        return
    if isinstance(given, dict) and given.keys() == {"transfers"}:
        given = given["transfers"]
    if not isinstance(given, list):
        check.complain(1, 'must be an array of transfers, or {"transfers": […]} and nothing else')
        return
    yield from enumerate(given, 1)


def _csv_items(raw: bytes, check: _Check) -> Iterator[tuple[int, Any]]:
    # What cannot be decoded stands where something else should, or is a text of nobody's: so it is refused.
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        check.complain(raw.count(b"\n", 0, error.start) + 1, "not UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if (wrong := _find_wrong(header)) is not None:
            check.complain(1, wrong)
            return
        for fields in reader:
            if len(fields) == len(header):
                yield reader.line_num, _item(header, fields)
            elif any(map(str.strip, fields)):
                check.complain(reader.line_num, f"must have {len(header)} fields, has {len(fields)}")
    except csv.Error as error:
        # From here on nobody can tell which line a field belongs to.
        check.complain(max(reader.line_num, 1), f"not CSV: {error}")


def _find_wrong(header: list[str]) -> str | None:
    """Say what is wrong with the names of the columns."""
    if missing := [name for name in NEEDED if name not in header]:
        return f"the first line must name the columns; there is no {missing[0]}"
    for name in header:
        if header.count(name) > 1:
            return f"the column {name[:64]!a} stands there twice"
        if name not in {*NEEDED, *ALLOWED} and not (name.startswith(METADATA) and name != METADATA):
            return f"the column {name[:64]!a} is none of {', '.join([*NEEDED, *ALLOWED, METADATA])}<key>"
    return None


def _item(header: list[str], fields: list[str]) -> dict[str, Any]:
    """Make of a row what a body would say; an empty field says nothing."""
    item: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, field in zip(header, fields, strict=True):
        if name in NEEDED:
            digits = field.strip()
            item[name] = int(digits) if _INTEGER.fullmatch(digits) else digits
        elif field and name in ALLOWED:
            item[name] = field
        elif field:
            metadata[name.removeprefix(METADATA)] = field
    return item | {"metadata": metadata} if metadata else item
