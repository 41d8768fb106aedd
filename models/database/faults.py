"""What an error of PostgreSQL or of the way to it means, as far as its SQLSTATE can tell.

It cannot tell whose fault it is: a trigger may raise any. That is found out by trying, see jobs/settler.py.
"""

import psycopg2
from sqlalchemy.exc import DBAPIError

# SQLSTATE classes and codes, https://www.postgresql.org/docs/18/errcodes-appendix.html:
# 08 connection exception, 53 insufficient resources, 57P operator intervention, 40 transaction rollback.
_PASSING_PREFIXES = ("08", "53", "57P", "40")
# 25P03: the server ended a session that idled in a transaction (a paused process): the work is simply undone.
_PASSING_CODES = frozenset({"25P03", "25P04"})
# 22 data exception, 23 integrity constraint violation, P0 raised by somebody's function.
_CONTENT_PREFIXES = ("22", "23", "P0")


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names a fault, None when it could not say any."""
    return getattr(error.orig, "pgcode", None)


def is_passing(error: DBAPIError) -> bool:
    """Whether the fault is of a kind that is usually over at the next try, and was nobody's.

    Without a SQLSTATE the connection broke in mid-sentence, or no connection could be had.
    """
    code = sqlstate(error)
    if code is None:
        return error.connection_invalidated or isinstance(
            error.orig, psycopg2.OperationalError | psycopg2.InterfaceError
        )
    return code.startswith(_PASSING_PREFIXES) or code in _PASSING_CODES


def is_about_content(error: DBAPIError) -> bool:
    """Whether the database would have done it, but for what was in it."""
    return (sqlstate(error) or "").startswith(_CONTENT_PREFIXES)


def lacks_room(error: DBAPIError) -> bool:
    """Whether the database had not enough of something: disk, memory, connections."""
    return (sqlstate(error) or "").startswith("53")


def first_line(error: BaseException) -> str:
    """Return what an error says in one line: a driver's goes on with the statement, which is nobody's business."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"


def is_conflict(error: DBAPIError) -> bool:
    """Whether the transaction lost against another one (deadlock, serialization) and may simply be run again."""
    return (sqlstate(error) or "").startswith("40")


def is_connection_lost(error: DBAPIError) -> bool:
    """Whether the connection is gone, so that the fate of whatever was sent last is not known."""
    code = sqlstate(error)
    return error.connection_invalidated or code is None or code.startswith(("08", "57P"))
