"""Calling a transfer off before it is tried.

It is one statement under the transfer's row lock, which whoever posts it holds from the moment he takes it in hand to
his commit. So of a cancellation and a posting one comes first, and the other finds what that has left: a transfer that
is canceled is left alone by all who post, and one that is posted stays so.
"""

from psycopg2.errors import LockNotAvailable
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models.database.engine import transaction
from models.errors import NotCancelable, Unavailable
from models.ledger.attempts import TELL
from models.ledger.transfer import Status

# How long to wait for whoever has it in hand. A batch commits in milliseconds; who takes longer is trying it.
PATIENCE_MS = 500

# What is pending may be called off, whether it has waited, was tried in vain, or is on its way to a worker; but nothing
# of an atomic bulk, which ends as a whole.
_CANCEL = text(
    TELL.format(
        change="""
UPDATE transfers SET status = 'canceled', completed_at = statement_timestamp(), next_attempt_at = NULL
WHERE id = :id AND completed_at IS NULL AND NOT EXISTS (SELECT FROM bulks AS b WHERE b.id = bulk_id AND b.atomic)
RETURNING *
"""
    )
)


def cancel(engine: Engine, transfer_id: int) -> bool:
    """Cancel a transfer if it is pending and nobody has it in hand; return whether it was this call that did it.

    Raises:
        NotCancelable: it is being tried.
        Unavailable: the database cannot be reached, or its reply was lost: to ask again does no harm.
    """
    try:
        with transaction(engine) as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {PATIENCE_MS}")
            return connection.execute(_CANCEL, {"id": transfer_id}).first() is not None
    except Unavailable as error:
        if isinstance(error.__cause__, DBAPIError) and isinstance(error.__cause__.orig, LockNotAvailable):
            raise NotCancelable(Status.PENDING, "it is being tried") from error
        raise
