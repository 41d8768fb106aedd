"""A statement as a file, CSV or JSON, in pieces: ``flask statement`` writes them, and the call sends them."""

import csv
from collections.abc import Iterable, Iterator
from datetime import date
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from api.contract.wallets import TransactionOut
from models.ledger.statements import Statement

# A spreadsheet takes a cell that begins like this for a formula. Numbers are not text, and stay as they are.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
# What stands in transaction_type of the lines around the entries.
OPENING, CLOSING = "opening_balance", "closing_balance"


class Format(StrEnum):
    """How a statement is written."""

    CSV = "csv"
    JSON = "json"


class Days(NamedTuple):
    """From the beginning of one day to the end of another, both in UTC."""

    first: date
    last: date


def spell(kind: Format, statement: Statement, days: Days, entries: Iterable[TransactionOut]) -> Iterator[str]:
    """Yield the file's text, a line or so at a time; the end of it comes last, so a part is known for one."""
    return _spell_csv(statement, days, entries) if kind is Format.CSV else _spell_json(statement, days, entries)


class _Lines:
    """A file for the csv module that keeps what was written last."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, line: str) -> None:
        """Keep it."""
        self.last = line


def _spell_csv(statement: Statement, days: Days, entries: Iterable[TransactionOut]) -> Iterator[str]:
    lines = _Lines()
    writer = csv.DictWriter(lines, [*TransactionOut.model_fields], lineterminator="\n")
    writer.writeheader()
    yield lines.last
    yield _line(writer, lines, _balance(OPENING, statement.opening_balance_cents, days.first))
    for entry in entries:
        yield _line(writer, lines, {name: _cell(value) for name, value in entry.model_dump(mode="json").items()})
    yield _line(writer, lines, _balance(CLOSING, statement.closing_balance_cents, days.last))


def _line(writer: "csv.DictWriter[str]", lines: _Lines, row: dict[str, Any]) -> str:
    writer.writerow(row)
    return lines.last


def _balance(what: str, cents: int, day: date) -> dict[str, Any]:
    return {"transaction_type": what, "balance_after": cents, "created_at": day.isoformat()}


def _spell_json(statement: Statement, days: Days, entries: Iterable[TransactionOut]) -> Iterator[str]:
    """Spell one object, a line for each entry, so that neither this end nor the other needs to hold it all."""
    head = {
        "user_id": str(statement.wallet_id),
        "from": days.first,
        "to": days.last,
        "opening_balance": statement.opening_balance_cents,
        "closing_balance": statement.closing_balance_cents,
    }
    yield orjson.dumps(head).decode().removesuffix("}") + ',"transactions":['
    separator = "\n"
    for entry in entries:
        yield separator + orjson.dumps(entry.model_dump(mode="json")).decode()
        separator = ",\n"
    yield "\n]}\n"


def _cell(value: object) -> object:
    """Keep a text from being run by the spreadsheet that opens it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_MARKS) else value
