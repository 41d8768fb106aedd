"""A turn at what only one process at a time is to do: a lease in PostgreSQL, by PostgreSQL's clock.

Whoever has it may go on for as long as it knows that nobody else can have it: counted from before it asked, by a clock
of its own that nobody sets. A process that dies, or is cut off, is followed by another when its lease has run out. What
is done in turn must all the same be safe to do twice: a process may stand still between its look at the clock and what
it then does.
"""

import time
from collections.abc import Callable
from uuid import uuid4

from sqlalchemy import Engine, text

from models.database.engine import transaction

# Not to be done with every use: a renewal is a commit.
RENEWED_AFTER = 1 / 3

_TAKE = text("""
INSERT INTO turns (name, holder, expires_at) VALUES (:name, :holder, now() + :ttl_s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE turns.holder = excluded.holder OR turns.expires_at <= now()
RETURNING holder
""")
_GIVE_BACK = text("UPDATE turns SET expires_at = now() WHERE name = :name AND holder = :holder")


class Turn:
    """One process's part in it. Not thread-safe."""

    def __init__(self, engine: Engine, name: str, *, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nobody yet.

        Args:
            engine: where the leases are.
            name: of what is done in turn.
            ttl_s: seconds until somebody else may follow a process that has died.
            clock: seconds, of a clock that nobody sets.
        """
        self._engine = engine
        self._name = name
        self._ttl_s = ttl_s
        self._clock = clock
        self._holder = uuid4()
        self._renew_at = self._ends_at = float("-inf")

    def is_mine(self) -> bool:
        """Take it if it is free, prolong it if it is mine, and return whether it is.

        Raises:
            Unavailable: it is to be prolonged, or taken, and PostgreSQL does not answer.
        """
        now = self._clock()
        if now < self._renew_at:
            return True
        given = {"name": self._name, "holder": self._holder, "ttl_s": self._ttl_s}
        with transaction(self._engine) as connection:
            is_mine = connection.execute(_TAKE, given).first() is not None
        self._ends_at = now + self._ttl_s if is_mine else float("-inf")
        self._renew_at = now + self._ttl_s * RENEWED_AFTER if is_mine else float("-inf")
        return is_mine

    def give_back(self) -> None:
        """Let others have it at once, if it is mine.

        Raises:
            Unavailable: PostgreSQL does not answer; then it runs out by itself.
        """
        if self._clock() < self._ends_at:
            with transaction(self._engine) as connection:
                connection.execute(_GIVE_BACK, {"name": self._name, "holder": self._holder})
        self._renew_at = self._ends_at = float("-inf")
