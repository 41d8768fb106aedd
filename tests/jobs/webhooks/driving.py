"""Senders driven by hand, and what is seen of deliveries."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sqlalchemy import Engine, text

from jobs.rq.webhook_queue import WebhookQueue
from jobs.webhooks.feeder import Feeder
from jobs.webhooks.sender import Sender
from models.ledger import events
from tests.jobs.workers import WorkerProcess

MOST_ROUNDS = 1_000


class Happen(Protocol):
    """Lets deposits happen."""

    def __call__(self, count: int = 1, *, user_id: int = 1) -> list[int]:
        """Return the ids of their events."""


class Senders(Protocol):
    """Starts processes that send, and try again soon."""

    def __call__(
        self, *strikes: dict[str, Any], constants: Mapping[str, float] = MappingProxyType({}), delays: str = "0"
    ) -> WorkerProcess:
        """Start it, to be struck at the points given; ``delays``: seconds between attempts."""


class Endpoints(Protocol):
    """Makes endpoints."""

    def __call__(self, url: str, *types: str, user_id: int | None = None) -> int:
        """Return the id."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A feeder, the queue in Redis, and a sender."""

    feeder: Feeder
    queue: WebhookQueue
    sender: Sender

    def round(self) -> int:
        """Feed once and send all that waits; return how many attempts were made."""
        self.feeder.run_once()
        attempts = 0
        while held := self.queue.take(100, worker_name="driver"):
            claimed = self.sender.claim(held)
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(self.sender.send, claimed))
            attempts += len(claimed)
        return attempts

    def run(self) -> int:
        """Go on until nothing is due."""
        attempts = 0
        for _ in range(MOST_ROUNDS):
            if not (made := self.round()):
                return attempts
            attempts += made
        raise AssertionError("there is no end to it")


def number_all(engine: Engine) -> int:
    """Number all events that there are, as the relay does; return the last."""
    while events.number(engine):
        pass
    return events.find_last(engine)


def have_ended(engine: Engine, count: int) -> Callable[[], bool]:
    """Tell whether so many deliveries are over."""
    return lambda: len([each for each in rows(engine, "status") if each != ("pending",)]) == count


def lose_what_is_held(engine: Engine) -> None:
    """Let half a minute pass, for whoever holds a delivery, or the turn."""
    change(engine, "UPDATE webhook_deliveries SET held_until = now() WHERE held_until IS NOT NULL")
    change(engine, "UPDATE turns SET expires_at = now() WHERE name = 'webhooks'")


def rows(engine: Engine, *columns: str) -> list[tuple[Any, ...]]:
    """Read deliveries past the service, in the order in which they were planned."""
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT {', '.join(columns)} FROM webhook_deliveries ORDER BY number"))  # noqa: S608
        return [tuple(row) for row in found]


def webhook(engine: Engine, webhook_id: int) -> Any:
    """Read an endpoint past the service."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM webhooks WHERE id = :id"), {"id": webhook_id}).one()


def change(engine: Engine, statement: str, **given: object) -> None:
    """Change something past the service."""
    with engine.begin() as connection:
        connection.execute(text(statement), given)
