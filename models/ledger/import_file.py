"""Reading a file of opening balances: all of it is sound, or it is refused with what is wrong, line by line."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from models.errors import WalletServiceError
from models.ledger.transfer import MAX_CENTS, MAX_ID

HEADER = ["user_id", "balance"]
# One transaction writes all of it, and its rows are held in memory until then.
MAX_ROWS = 1_000_000
# Twice what so many rows of the longest numbers take.
MAX_BYTES = 96 * 1024 * 1024
# A file of another kind is wrong in every line; the first few tell as much as all of them.
MAX_SHOWN = 20

# Not int()'s own reading, which takes 1_000, +5 and digits of other scripts.
_DIGITS = re.compile(r"[0-9]{1,19}")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Opening(NamedTuple):
    """A wallet to open, and with how much. Without money it is opened all the same, and has no entry."""

    user_id: int
    balance_cents: int


class Problem(NamedTuple):
    """What is wrong in which line, counted from 1 as editors do."""

    line: int
    what: str


class FileRefused(WalletServiceError):
    """The file cannot be imported as it is."""

    def __init__(self, problems: list[Problem], count: int) -> None:
        """``problems`` are the first :data:`MAX_SHOWN` of ``count``."""
        super().__init__()
        self.problems = problems
        self.count = count


def read(file: BinaryIO) -> list[Opening]:
    """Read ``user_id,balance`` lines, in UTF-8 or UTF-16, with or without a byte order mark, with any line ends.

    Raises:
        FileRefused: anything at all is wrong with it.
    """
    raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise FileRefused([Problem(1, f"the file is larger than {MAX_BYTES} bytes")], 1)
    encoding = "utf-16" if raw.startswith(_UTF_16) else "utf-8-sig"
    # What cannot be decoded stands where a digit should, and is found there, with its line.
    checked = _Rows(raw.decode(encoding, errors="replace"))
    openings = list(checked)
    if checked.count:
        raise FileRefused(checked.problems, checked.count)
    return openings


class _Rows:
    """Goes through the lines once, keeping the sound rows apart from what is wrong with the others."""

    def __init__(self, text: str) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        self._line_of: dict[int, int] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def __iter__(self) -> Iterator[Opening]:
        try:
            if not self._has_header():
                return
            for fields in self._reader:
                if any(map(str.strip, fields)) and (opening := self._check(fields)) is not None:
                    yield opening
                if len(self._line_of) > MAX_ROWS:
                    self._complain(f"more than {MAX_ROWS} rows; split the file")
                    return
        except csv.Error as error:
            # From here on nobody can tell which line a field belongs to.
            self._complain(f"not CSV: {error}")
        if not self._line_of and not self.count:
            self._complain("there are no rows below the header")

    def _has_header(self) -> bool:
        header = [name.strip() for name in next(self._reader, [])]
        if header != HEADER:
            self._complain(f"the first line must be {','.join(HEADER)}")
        return header == HEADER

    def _check(self, fields: list[str]) -> Opening | None:
        if len(fields) != len(HEADER):
            self._complain(f"must have {len(HEADER)} fields, has {len(fields)}")
            return None
        user_id = self._integer("user_id", fields[0], at_least=1, at_most=MAX_ID)
        balance_cents = self._integer("balance", fields[1], at_least=0, at_most=MAX_CENTS)
        if user_id is None:
            return None
        if (earlier := self._line_of.setdefault(user_id, self._reader.line_num)) != self._reader.line_num:
            self._complain(f"user_id: {user_id} stands in line {earlier} already")
            return None
        return None if balance_cents is None else Opening(user_id, balance_cents)

    def _integer(self, name: str, field: str, *, at_least: int, at_most: int) -> int | None:
        digits = field.strip()
        number = int(digits) if _DIGITS.fullmatch(digits) else None
        if number is None or not at_least <= number <= at_most:
            what = " of cents" if name == "balance" else ""
            self._complain(f"{name}: must be an integer{what} from {at_least} to {at_most}, is {digits[:30]!a}")
            return None
        return number

    def _complain(self, what: str) -> None:
        self.count += 1
        if len(self.problems) < MAX_SHOWN:
            self.problems.append(Problem(max(self._reader.line_num, 1), what))
