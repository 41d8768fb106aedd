"""Generators on clocks on which nothing happens by itself, and what the tests see of the leases in the database."""

import time
from collections.abc import Callable
from uuid import UUID, uuid4

from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text, update

from models.schema.tables import snowflake_nodes as nodes
from models.snowflake.ids import Snowflake
from models.snowflake.layout import LAST_MS
from models.snowflake.leases import (
    LEASE_S,
    NodeLease,
    Reservation,
)
from tests.models.snowflake.snowflake_child import PATIENCE_S, START_MS
from tests.proxy import TcpProxy

LEASE_MS = round(LEASE_S * 1000)
# The tests' own nodes: the other tests of this run draw their ids from the real ones.
SCHEMA = "snowflake_tests"


class FakeClock:
    """A wall clock that moves when it is set or waited for."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms
        self.waits_ms: list[int] = []

    def __call__(self) -> int:
        return self.now_ms

    def wait_s(self, seconds: float) -> None:
        self.waits_ms.append(round(seconds * 1000))
        self.now_ms += self.waits_ms[-1]


class FakeUptime:
    """A clock in seconds that moves when it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FixedLease(NodeLease):
    """A lease without a database that never ends: for what concerns the generator alone."""

    def __init__(self, node: int = 5) -> None:
        super().__init__(create_engine("postgresql+psycopg2://"))
        self._fixed = Reservation(
            holder=uuid4(), node=node, floor_ms=0, ceiling_ms=LAST_MS, renew_at_s=float("inf"), ends_at_s=float("inf")
        )

    def reserve(self, now_ms: int) -> Reservation:
        assert now_ms <= LAST_MS
        return self._fixed


class Cable:
    """A way to the database that connects anew every time, counts that, and can be cut."""

    def __init__(self, database: Engine, proxy: TcpProxy) -> None:
        self.database = database
        self.engine = create_engine(database.url.set(host="127.0.0.1", port=proxy.port), poolclass=NullPool)
        self.proxy = proxy
        self.tries = 0
        self.on_try: Callable[[], object] = bool
        event.listen(self.engine, "do_connect", self._count)

    def cut(self) -> None:
        self.proxy.refuse()

    def mend(self) -> None:
        self.proxy.refuse(refusing=False)

    def lose_reply_to_commit(self) -> None:
        self.proxy.lose_reply_to(lambda request: b"COMMIT" in request)

    def cut_at_try(self, number: int) -> None:
        self.on_try = lambda: self.proxy.refuse(refusing=self.tries >= number)

    def _count(self, *_: object) -> None:
        self.tries += 1
        self.on_try()


def reset(engine: Engine) -> None:
    """Make every node free and unused."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM snowflake_nodes"))
        connection.execute(text("INSERT INTO snowflake_nodes (node) SELECT generate_series(0, 1023)"))


def occupy_all_but(engine: Engine, *free: int) -> None:
    """Lease every other node to somebody who never dies."""
    others = update(nodes).where(nodes.c.node.not_in(free)).values(holder=uuid4(), expires_at=text("'infinity'"))
    with engine.begin() as connection:
        connection.execute(others)


def expire(engine: Engine, *which: int) -> None:
    """Let these leases run out by PostgreSQL's clock, and by no other."""
    with engine.begin() as connection:
        connection.execute(update(nodes).where(nodes.c.node.in_(which)).values(expires_at=func.now()))


def row_of(engine: Engine, node: int) -> tuple[UUID | None, bool, int]:
    """Return a node's holder, whether its lease holds, and how far it is reserved."""
    query = select(nodes.c.holder, nodes.c.expires_at > func.now(), nodes.c.reserved_until_ms)
    with engine.connect() as connection:
        holder, holds, reserved_until_ms = connection.execute(query.where(nodes.c.node == node)).one()
    return holder, holds, reserved_until_ms


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def without_database(clock: FakeClock, node: int = 5) -> Snowflake:
    """Make a generator whose node is its own for ever."""
    return Snowflake(FixedLease(node), clock_ms=clock, wait_s=clock.wait_s)


def leasing(engine: Engine, clock: FakeClock, uptime: FakeUptime | None = None) -> Snowflake:
    """Make a generator that leases its node, and on whose clocks nothing happens by itself."""
    uptime = uptime or FakeUptime()
    return Snowflake(NodeLease(engine, uptime_s=uptime), clock_ms=clock, wait_s=clock.wait_s, uptime_s=uptime)
