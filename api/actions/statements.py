"""A statement, sent while it is read: a slice of entries at a time, with no connection held in between.

What is wrong before its first piece is there is a problem like any. What breaks it off later can be told only by
sending nothing more: whoever serves it has to end the connection without the end of the answer.
"""

from collections.abc import Iterator
from datetime import timedelta

import structlog

from api.calls.call import Call
from api.calls.problems import ApiError
from api.contract.statement_file import Days, Format, spell
from api.contract.wallets import TransactionOut
from api.services import Services
from models.database.faults import first_line
from models.errors import EntriesLeft, Unavailable

# Of a call; `flask statement` has no such bound.
MOST_DAYS = 366
# Characters that are put together before they are sent.
PIECE = 32_768

_log = structlog.get_logger("api")


class BrokenOff(ConnectionAbortedError):
    """What is being sent has no rest."""


def open_statement(services: Services, call: Call, user_id: int, days: Days, kind: Format) -> Iterator[bytes]:
    """Find a statement, read the first of it, and return its pieces. To be closed by whoever takes them.

    Raises:
        ApiError: ``bad_input``: the days are in no order, or too many; ``unavailable``: too many are being sent.
        WalletNotFound: the user has no wallet.
        EntriesLeft: some of these days' entries have left the database.
        Unavailable: the database cannot be reached.
        BrokenOff: by the pieces: it cannot be read any further.
    """
    if days.last < days.first:
        raise ApiError("bad_input", "query: to: is before from")
    if days.last - days.first >= timedelta(days=MOST_DAYS):
        raise ApiError("bad_input", f"query: to: a statement is of {MOST_DAYS} days at most")
    pieces = _seated(services, call, user_id, days, kind)
    next(pieces)
    return pieces


def _seated(services: Services, call: Call, user_id: int, days: Days, kind: Format) -> Iterator[bytes]:
    """Yield nothing once the first piece is there, then the pieces. It has begun, so that closing it frees its seat."""
    with services.statement_seats.taken():
        statement = services.statements.get_statement(user_id, days.first, days.last)
        entries = map(TransactionOut.of, services.statements.entries(statement))
        pieces = _pieces(spell(kind, statement, days, entries))
        first = next(pieces)
        yield b""
        yield first
        try:
            yield from pieces
        except (EntriesLeft, Unavailable) as error:
            _log.error("a statement is broken off", cause=first_line(error), trace_id=call.trace.trace_id)
            raise BrokenOff(str(error)) from error


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    """Put lines together."""
    held: list[str] = []
    length = 0
    for line in lines:
        held.append(line)
        length += len(line)
        if length >= PIECE:
            yield "".join(held).encode()
            held.clear()
            length = 0
    yield "".join(held).encode()
