"""What an error of PostgreSQL or of the way to it means: whose fault it is, and what may be done about it."""

from enum import Enum

import psycopg2
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class FaultScope(Enum):
    """Whose fault a technical fault is: it decides what is retried, and at whose cost."""

    BATCH = "batch"  # the database's: hand everything back, wait, spend no attempt
    TRANSFER = "transfer"  # one transfer's: isolate it, spend one of its attempts


# SQLSTATE classes and codes, https://www.postgresql.org/docs/18/errcodes-appendix.html:
# 08 connection exception, 53 insufficient resources, 57P operator intervention, 40 transaction rollback.
_BATCH_PREFIXES = ("08", "53", "57P", "40")
# 25P03: the server ended a session that idled in a transaction (a paused process): the work is simply undone.
_BATCH_CODES = frozenset({"25P03", "25P04"})


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL names a fault, None when it could not say any."""
    return getattr(error.orig, "pgcode", None)


def scope_of(error: DBAPIError | PoolTimeoutError) -> FaultScope:
    """Tell whether a fault is the whole database's or a single transfer's.

    Without a SQLSTATE the connection broke in mid-sentence, or no connection could be had.
    """
    if isinstance(error, PoolTimeoutError):
        return FaultScope.BATCH
    code = sqlstate(error)
    if code is None:
        lost = error.connection_invalidated or isinstance(
            error.orig, psycopg2.OperationalError | psycopg2.InterfaceError
        )
        return FaultScope.BATCH if lost else FaultScope.TRANSFER
    return FaultScope.BATCH if code.startswith(_BATCH_PREFIXES) or code in _BATCH_CODES else FaultScope.TRANSFER


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
