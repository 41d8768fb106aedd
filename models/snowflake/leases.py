"""Leases of node ids: reservations of instants, kept in PostgreSQL.

Taking or renewing a lease first commits how far its holder may go (``reserved_until_ms``), the holder issues nothing
beyond that, and whoever has the node next starts above it. A node's row must therefore never be deleted, nor its
``reserved_until_ms`` lowered by anyone but its holder.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from models.errors import Unavailable
from models.schema.tables import snowflake_nodes as nodes
from models.snowflake.layout import LAST_MS

# How long a node stays taken when its holder dies. Renewed when a third is left, it leaves a database that is away
# ten seconds to come back before anybody notices here.
LEASE_S = 30.0
# After a fault the database is left alone this long: whoever queued up behind it fails (or goes on) at once.
RETRY_PAUSE_S = 0.5

# Seconds on a clock that is never set, and that no SIGSTOP stops. A suspended machine does not stop it either, which
# on Linux takes BOOTTIME and elsewhere is true of MONOTONIC.
boot_time_s = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SnowflakeError(Unavailable):
    """No id can be issued now."""


class NoFreeNode(SnowflakeError):
    """Every node id is leased, or the migration that fills snowflake_nodes has not run."""


class LeaseUnavailable(SnowflakeError):
    """No node id is held, and the database that leases them cannot be reached."""


class ClockOutOfRange(SnowflakeError):
    """The clock is past the last millisecond that 41 bits can tell."""

    def __init__(self, now_ms: int) -> None:
        super().__init__()
        self.now_ms = now_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Instants of one node that are this process's alone: after ``floor_ms``, up to and including ``ceiling_ms``.

    Both are Unix milliseconds; ``renew_at_s`` and ``ends_at_s`` are seconds of uptime.
    """

    holder: UUID  # of this taking: each has its own, so that no late statement of an earlier one can touch it
    node: int
    floor_ms: int
    ceiling_ms: int
    renew_at_s: float
    ends_at_s: float


class NodeLease:
    """Holds one node id at a time, leased in PostgreSQL. Not thread-safe: a :class:`Snowflake` guards its own.

    It is taken at the first need and renewed on demand by whoever asks when less than a third is left, so an idle
    process lets it run out and a busy one needs no thread for it.
    """

    def __init__(
        self, engine: Engine, *, lease_s: float = LEASE_S, uptime_s: Callable[[], float] = boot_time_s
    ) -> None:
        """Connect to nothing yet.

        Args:
            engine: where ``snowflake_nodes`` is. Its timeouts bound how long a call can take.
            lease_s: seconds that a taking or a renewal is good for.
            uptime_s: a clock in seconds that is never set and runs on while the process is stopped.
        """
        if lease_s <= 0:
            raise ValueError("lease_s must be positive")
        self._engine = engine
        self._lease_s = lease_s
        self._uptime_s = uptime_s
        self._held: Reservation | None = None
        self._paused_until_s = float("-inf")

    @property
    def node(self) -> int | None:
        """Return the node id held, None when there is none or its lease has run out."""
        held = self._held
        return held.node if held is not None and self._uptime_s() < held.ends_at_s else None

    @property
    def seconds_left(self) -> float:
        """Return how many seconds the lease still holds without another renewal, 0 when there is none."""
        held = self._held
        return 0.0 if held is None else max(0.0, held.ends_at_s - self._uptime_s())

    def reserve(self, now_ms: int) -> Reservation:
        """Return a reservation whose lease holds and whose ceiling is not below ``now_ms`` (Unix milliseconds).

        Raises:
            NoFreeNode: all are leased.
            LeaseUnavailable: nothing is held and the database does not answer.
            ClockOutOfRange: ids cannot tell so late an instant.
        """
        held = self._held
        if held is not None and now_ms <= held.ceiling_ms and self._uptime_s() < held.renew_at_s:
            return held
        if now_ms > LAST_MS:
            raise ClockOutOfRange(now_ms)
        fault: SQLAlchemyError | None = None
        if self._uptime_s() >= self._paused_until_s:
            try:
                self._extend(now_ms)
            except SQLAlchemyError as error:
                self._paused_until_s = self._uptime_s() + RETRY_PAUSE_S
                fault = error
        held = self._held
        if held is not None and now_ms <= held.ceiling_ms and self._uptime_s() < held.ends_at_s:
            return held
        raise LeaseUnavailable from fault

    def release(self, last_ms: int) -> None:
        """Give the node back, and with it the instants after ``last_ms``, the latest that an id was issued for.

        A database that does not answer is no error: the lease then runs out by itself.
        """
        held, self._held = self._held, None
        if held is None:
            return
        used_until_ms = max(held.floor_ms, last_ms)
        statement = (
            update(nodes)
            .where(nodes.c.node == held.node, nodes.c.holder == held.holder)
            .values(
                holder=None,
                expires_at=func.now(),
                reserved_until_ms=func.least(nodes.c.reserved_until_ms, used_until_ms),
            )
        )
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(statement)

    def forget(self) -> None:
        """Drop lease and connections untouched: in a process just forked both are the parent's."""
        self._held = None
        self._engine.dispose(close=False)

    def _extend(self, now_ms: int) -> None:
        """Renew what is held, or take a node. Either may be done twice.

        That a pooled connection has died (a server that was restarted) is found out by using it; then, and only then,
        a second try at once has better prospects, since the pool has been emptied.
        """
        try:
            self._renew_or_take(now_ms)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self._renew_or_take(now_ms)

    def _renew_or_take(self, now_ms: int) -> None:
        if self._held is not None:
            self._held = self._renew(self._held, now_ms)
        if self._held is None:
            self._held = self._take(now_ms)

    def _renew(self, held: Reservation, now_ms: int) -> Reservation | None:
        """Extend what is held; None when it is held no longer."""
        asked_at_s = self._uptime_s()
        statement = (
            update(nodes)
            .where(nodes.c.node == held.node, nodes.c.holder == held.holder, nodes.c.expires_at > func.now())
            .values(self._claim(now_ms))
            .returning(nodes.c.reserved_until_ms)
        )
        with self._engine.begin() as connection:
            ceiling_ms = connection.execute(statement).scalar()
        if ceiling_ms is None:
            return None
        renew_at_s, ends_at_s = self._ends(asked_at_s)
        return replace(held, ceiling_ms=ceiling_ms, renew_at_s=renew_at_s, ends_at_s=ends_at_s)

    def _take(self, now_ms: int) -> Reservation:
        """Take the free node that has been reserved least far. Nodes that others are just taking are passed over."""
        asked_at_s, holder = self._uptime_s(), uuid4()
        free = (
            select(nodes.c.node, nodes.c.reserved_until_ms.label("floor_ms"))
            .where(nodes.c.expires_at <= func.now())
            .order_by(nodes.c.reserved_until_ms, nodes.c.node)
            .limit(1)
            .with_for_update(skip_locked=True)
            .cte("free")
        )
        statement = (
            update(nodes)
            .where(nodes.c.node == free.c.node)
            .values(self._claim(now_ms) | {"holder": holder})
            .returning(nodes.c.node, free.c.floor_ms, nodes.c.reserved_until_ms)
        )
        with self._engine.begin() as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise NoFreeNode
        node, floor_ms, ceiling_ms = row
        renew_at_s, ends_at_s = self._ends(asked_at_s)
        return Reservation(
            holder=holder,
            node=node,
            floor_ms=floor_ms,
            ceiling_ms=ceiling_ms,
            renew_at_s=renew_at_s,
            ends_at_s=ends_at_s,
        )

    def _claim(self, now_ms: int) -> dict[str, object]:
        """Return the columns of a lease from now on. A reservation only grows, also for a clock that is slow."""
        ceiling_ms = min(now_ms + round(self._lease_s * 1000), LAST_MS)
        return {
            "expires_at": func.now() + timedelta(seconds=self._lease_s),
            "reserved_until_ms": func.greatest(nodes.c.reserved_until_ms, ceiling_ms),
        }

    def _ends(self, asked_at_s: float) -> tuple[float, float]:
        """Return when to renew and when it is over. Counted from before the request, so never after PostgreSQL's."""
        return asked_at_s + self._lease_s * 2 / 3, asked_at_s + self._lease_s
