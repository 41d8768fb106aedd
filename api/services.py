"""What the views call: made once per process, handed to them through the application."""

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from sqlalchemy import Engine

from api.counted_orders import CountedOrders
from api.readings import Readings
from api.waiting import WaitingRoom
from config import Settings
from jobs.dead_letters import DeadLetters
from jobs.queue import TransferQueue, connect_redis
from models.database import create_bounded_engine
from models.history import History
from models.orders import Orders
from models.snowflake import NodeLease, Snowflake

EXTENSION = "wallet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One process's way to the books and to the queue. Making it connects to nothing."""

    settings: Settings
    engine: Engine
    snowflake: Snowflake
    orders: Orders
    history: History
    queue: TransferQueue
    dead_letters: DeadLetters
    waiting: WaitingRoom
    readings: Readings

    def close(self) -> None:
        """Give back what others may use at once: the lease on a node id, the connections."""
        self.snowflake.release()
        self.engine.dispose()


def make_services(settings: Settings) -> Services:
    """Wire up one process."""
    engine = create_bounded_engine(
        settings.sqlalchemy_url,
        timeouts_ms=settings.database_timeouts_ms,
        pool_size=settings.api_threads,
        application_name="wallet-api",
    )
    snowflake = Snowflake(NodeLease(engine))
    queue = TransferQueue(connect_redis(settings.redis_url.get_secret_value()))
    return Services(
        settings=settings,
        engine=engine,
        snowflake=snowflake,
        orders=CountedOrders(engine, snowflake),
        history=History(engine),
        queue=queue,
        dead_letters=DeadLetters(engine, queue),
        # Whoever waits for a job holds a thread: at most half of them, so that the others always find one.
        waiting=WaitingRoom(seats=settings.api_threads // 2),
        readings=Readings(settings),
    )


def services() -> Services:
    """Return the running application's services."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """Return an application's services."""
    return cast("Services", app.extensions[EXTENSION])
