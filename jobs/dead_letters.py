"""Dead letters: transfers whose attempts ran out, until an administrator puts them back."""

from dataclasses import dataclass

import structlog
from sqlalchemy import Engine

from jobs.transport import WayOn
from models.database.engine import transaction
from models.ledger import attempts
from models.ledger.attempts import Due
from models.ledger.history import History, as_transfer
from models.ledger.transfer import MAX_ID, Transfer
from observe import logs

# Transfers reopened in one transaction: its locks are held for a moment only.
CHUNK = 500

_log = structlog.get_logger("dead_letters")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Some dead letters, newest first; ``next_id``: the page after it has lower ids; None when there is none."""

    transfers: list[Transfer]
    next_id: int | None


class DeadLetters:
    """Lists and requeues."""

    def __init__(self, engine: Engine, way_on: WayOn) -> None:
        self._engine = engine
        self._history = History(engine)
        self._way_on = way_on

    def get_page(self, *, size: int, before_id: int = MAX_ID) -> DeadLetterPage:
        """Return a page of dead letters, newest first.

        Raises:
            Unavailable: the database cannot be reached.
        """
        rows = attempts.find_dead(self._engine, before=before_id, limit=size + 1)
        found = [as_transfer(row) for row in rows]
        return DeadLetterPage(transfers=found[:size], next_id=found[size - 1].id if len(found) > size else None)

    def requeue(self, transfer_id: int, *, by: str) -> tuple[Transfer, bool]:
        """Put one back with all its attempts, and return how it stands and whether it was dead.

        Whoever asks twice gets the same answer, and the transfer is tried once.

        Raises:
            TransferNotFound: there is no such transfer.
            Unavailable: the database cannot be reached.
        """
        generations = attempts.find_dead_generations(self._engine, [transfer_id])
        reopened = self._reopen(generations, by=by) if generations else []
        return self._history.get_transfer(transfer_id, seen_by=None), bool(reopened)

    def requeue_all(self, *, by: str) -> int:
        """Put back all that are dead now, and return how many they were.

        Raises:
            Unavailable: the database cannot be reached; those before stay requeued.
        """
        before, count = MAX_ID, 0
        while rows := attempts.find_dead(self._engine, before=before, limit=CHUNK):
            count += len(self._reopen({row.id: row.generation for row in rows}, by=by))
            before = rows[-1].id
        return count

    def _reopen(self, generations: dict[int, int], *, by: str) -> list[Due]:
        """Reopen in PostgreSQL, then put back. Should the second fail, the relay does it."""
        with transaction(self._engine) as connection:
            reopened = attempts.reopen(connection, generations)
        for due in reopened:
            # Of the transfer, and not of the request that asks for it, which may be for thousands.
            _log.warning("dead letter requeued", job_id=str(due.id), trace_id=logs.trace_id_of(due.trace), by=by)
        self._way_on.put_back(reopened)
        return reopened
