"""Rehearsing: a posting of made-up transfers between made-up wallets, which is undone.

It shows what the database does for anybody just now: the same statements take the same locks on the same tables and
write the same kinds of rows, on the same connections. Nobody else's row is touched, so what it meets with is no
wallet's and no transfer's, but the database's.
"""

import random
import time
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database.faults import is_about_content, lacks_room, sqlstate
from models.database.session import Session, Statement
from models.ledger.posting import post_within
from models.ledger.transfer import MAX_ID

# A lock that has to be waited for for longer than this is somebody's on a whole table: nothing else is shared.
PATIENCE_MS = 20
# After a fault for want of room, so many are rehearsed: some rows may find some that is left where many do not.
MANY = 100
# A transfer took too long if the database does the same for others in this share of the time. If not, it is slow.
QUICK = 0.2
_QUERY_CANCELED = "57014"
# Where ids are made up. Should one be somebody's, the rehearsal is refused, and that is all.
_SPAN = 2**60
# A wallet that is given so many cents, and passes each on to another one. All as the service itself may write it.
_MAKE_UP = Statement(
    "make_up",
    ("bigint", "bigint"),
    """
WITH opened AS (
    INSERT INTO wallets (id) SELECT * FROM generate_series($1, $1 + $2)
)
INSERT INTO transfers (id, kind, source, destination, amount)
SELECT $1, 'deposit', NULL, $1, $2
UNION ALL SELECT id, 'transfer', $1, id, 1 FROM generate_series($1 + 1, $1 + $2) AS id
""",
)
# What waits for the commit is done before: the commit itself never comes.
_UNDO = "SET CONSTRAINTS ALL IMMEDIATE;ROLLBACK"


class Fault(NamedTuple):
    """Why a posting failed that could be rehearsed right after it.

    ``is_clear``: nothing but what was to be posted can be to blame. It is not while the database is merely slow.
    """

    error: DBAPIError
    is_clear: bool

    @property
    def code(self) -> str | None:
        """Its SQLSTATE."""
        return sqlstate(self.error)


def judge(engine: Engine, error: DBAPIError, *, took_s: float) -> Fault | None:
    """Find out whether the database does for others what it has just refused; return None if it does not.

    Where that cannot be told, because made-up transfers are against some rule of the owner's, it counts as done.

    Args:
        engine: of the database.
        error: how a posting failed.
        took_s: how many seconds after it had begun.
    """
    began = time.monotonic()
    try:
        with Session(engine) as session:
            rehearse(session, transfers=MANY if lacks_room(error) else 1)
    except PoolTimeoutError:
        return None
    except DBAPIError as failure:
        if not is_about_content(failure):
            return None
    is_quick = time.monotonic() - began < QUICK * took_s
    return Fault(error, is_quick or sqlstate(error) != _QUERY_CANCELED)


def rehearse(session: Session, *, transfers: int = 1) -> None:
    """Post so many made-up transfers, and undo it.

    Args:
        session: in no transaction.
        transfers: how many. Some hundred rows need room that a few find in what is there.

    Raises:
        psycopg2.Error: the database does not do it; or what it was asked for is refused, see
            :func:`models.database.faults.is_about_content`.
    """
    first = MAX_ID - transfers - random.randrange(_SPAN)  # noqa: S311 - it must be free, and may be guessed
    session.begin(lock_timeout_ms=PATIENCE_MS)
    session.run(_MAKE_UP, first, transfers)
    post_within(session, range(first, first + transfers + 1), then=_UNDO)
