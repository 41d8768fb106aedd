"""What the views call: made once per process, handed to them through the application."""

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app
from sqlalchemy import Engine

from api.access import limits
from api.access.identity import Identity, make_identity
from api.access.limits import Limits
from api.access.token_bucket import TAKE
from api.counted_orders import CountedOrders
from api.readings import Readings
from api.waiting import WaitingRoom
from config import Settings
from jobs.connections import make_cache, make_engine
from jobs.dead_letters import DeadLetters
from jobs.rq.queue import TransferQueue
from models.cache.wallet_cache import READ, WalletCache
from models.ledger.history import History
from models.ledger.orders import Orders
from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from observe import metrics

EXTENSION = "wallet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One process's way to the books and to the queue. Making it connects to nothing."""

    identity: Identity
    limits: Limits
    max_body_bytes: int
    engine: Engine
    snowflake: Snowflake
    orders: Orders
    history: History
    queue: TransferQueue
    dead_letters: DeadLetters
    cache: WalletCache
    # To the queue's Redis, for the throttle, and for reads too if that is where they are cached.
    line: RedisLine
    shares_redis: bool
    waiting: WaitingRoom
    readings: Readings
    # Set once the process has been told to stop, with nobody to take its place.
    stopping: threading.Event = field(default_factory=threading.Event)

    def leave(self, *, within_s: float, is_replaced: bool) -> None:
        """Prepare for the end of this process: no request is to wait longer than this, and probes are told.

        Not when it is replaced by others that are ready: then the service is, whoever still answers for it.
        """
        self.waiting.close(within_s=within_s)
        if not is_replaced:
            self.stopping.set()

    def count_turned_away(self) -> None:
        """Count a request that the server has answered by itself, with 503, because too many waited before it."""
        metrics.shed["requests"].inc()

    def close(self) -> None:
        """Give back what others may use at once: the lease on a node id, the connections."""
        self.cache.close()
        self.line.close()
        self.queue.close()
        self.snowflake.release()
        self.engine.dispose()


def make_services(app: Flask, settings: Settings) -> Services:
    """Wire up one process."""
    engine = make_engine(settings, application_name="wallet-api")
    snowflake = Snowflake(NodeLease(engine))
    cache = make_cache(settings, engine)
    queue = TransferQueue(connect_redis(settings.redis_url.get_secret_value()))
    line = RedisLine(connect_redis(settings.redis_url.get_secret_value()), [TAKE, READ])
    history = History(engine)
    if shares_redis := settings.cache_redis_url is None:
        cache.pulse.watch(line)
    throttle = limits.install(app, settings, line)
    return Services(
        identity=make_identity(app, settings, throttle),
        limits=throttle,
        max_body_bytes=settings.max_body_bytes,
        engine=engine,
        snowflake=snowflake,
        orders=CountedOrders(engine, snowflake, cache),
        history=history,
        queue=queue,
        dead_letters=DeadLetters(engine, queue),
        cache=cache,
        line=line,
        shares_redis=shares_redis,
        waiting=WaitingRoom(history.find_ended),
        readings=Readings(settings),
    )


def services() -> Services:
    """Return the running application's services."""
    return cast("Services", current_app.extensions[EXTENSION])
