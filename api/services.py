"""What all faces call: made once per process."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Engine

from api.access.identity import Identity, make_identity
from api.access.limits import Limits, make_limits
from api.access.token_bucket import TAKE, TokenBucket
from api.counted_orders import CountedOrders
from api.readings import Readings
from api.seats import Seats
from api.waiting import LONGEST_PAUSE_S, Room
from config import Settings
from jobs.connections import make_cache, make_engine
from jobs.dead_letters import DeadLetters
from jobs.transport import WayOn, make_way_on
from models.cache.wallet_cache import READ, WalletCache
from models.ledger import events
from models.ledger.bulks import Bulks
from models.ledger.freezes import Freezes
from models.ledger.history import History
from models.ledger.listing import Listing
from models.ledger.orders import Orders
from models.ledger.statements import Statements
from models.redis_line.client import connect_redis
from models.redis_line.line import RedisLine
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from observe import metrics

BULK_PATH = "/api/transfers/bulk/v1"
# Bulks that a process takes at a time.
MOST_BULKS = 2
# How many seconds the next one waits for its turn: most take a moment.
BULK_WAIT_S = 1.0
# A process sends so many statements at once.
MOST_STATEMENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One process's way to the books and to the queue. Making it connects to nothing."""

    identity: Identity
    limits: Limits
    max_body_bytes: int
    max_bulk_bytes: int
    engine: Engine
    snowflake: Snowflake
    orders: Orders
    bulks: Bulks
    history: History
    listing: Listing
    statements: Statements
    way_on: WayOn
    dead_letters: DeadLetters
    freezes: Freezes
    cache: WalletCache
    # To the queue's Redis, for the throttle, and for reads too if that is where they are cached.
    line: RedisLine
    shares_redis: bool
    # For transfers, and bulks, that end; by their ids.
    waiting: Room[int]
    # For events that follow one; by its id.
    waiting_for_events: Room[int]
    readings: Readings
    # Those who send a bulk: what one of them holds in memory is many times what any other does.
    bulk_seats: Seats = field(
        default_factory=lambda: Seats(
            MOST_BULKS, "bulks", "Too many bulks are being taken here, and nothing moved.", wait_s=BULK_WAIT_S
        )
    )
    # Of statements that are being sent, each with a slice of entries in hand.
    statement_seats: Seats = field(
        default_factory=lambda: Seats(MOST_STATEMENTS, "statements", "Too many statements are being sent here.")
    )
    # Set once the process has been told to stop, with nobody to take its place.
    stopping: threading.Event = field(default_factory=threading.Event)

    def most_body_bytes(self, path: str) -> int:
        """Return how many bytes a request to a path may bring."""
        return self.max_bulk_bytes if path == BULK_PATH else self.max_body_bytes

    def leave(self, *, within_s: float, is_replaced: bool) -> None:
        """Prepare for the end of this process: no request is to wait longer than this, and probes are told.

        Not when it is replaced by others that are ready: then the service is, whoever still answers for it.
        """
        self.waiting.close(within_s=within_s)
        self.waiting_for_events.close(within_s=within_s)
        if not is_replaced:
            self.stopping.set()

    def count_turned_away(self) -> None:
        """Count a request that the server has answered by itself, with 503, because too many waited before it."""
        metrics.shed["requests"].inc()

    def ask_others(self) -> dict[str, bool]:
        """Tell of each thing that the service can do without for a while whether it answers."""
        answers = {self.way_on.dependency: self.way_on.ping()}
        return answers if "redis" in answers else {"redis": self.line.answers(), **answers}

    def close(self) -> None:
        """Give back what others may use at once: the lease on a node id, the connections."""
        self.cache.close()
        self.line.close()
        self.way_on.close()
        self.snowflake.release()
        self.engine.dispose()


def make_services(
    settings: Settings, make_strategy: Callable[[RedisLine], TokenBucket], *, application_name: str
) -> Services:
    """Wire up one process.

    Args:
        settings: of the process.
        make_strategy: makes what throttles, with its buckets at the other end of a line.
        application_name: what its connections to PostgreSQL are called there.
    """
    engine = make_engine(settings, application_name=application_name)
    snowflake = Snowflake(NodeLease(engine))
    cache = make_cache(settings, engine)
    way_on = make_way_on(settings)
    line = RedisLine(connect_redis(settings.redis_url.get_secret_value()), [TAKE, READ])
    history = History(engine)
    if shares_redis := settings.cache_redis_url is None:
        cache.pulse.watch(line)
    throttle = make_limits(settings, lambda: make_strategy(line))
    return Services(
        identity=make_identity(settings, throttle),
        limits=throttle,
        max_body_bytes=settings.max_body_bytes,
        max_bulk_bytes=settings.max_bulk_bytes,
        engine=engine,
        snowflake=snowflake,
        orders=CountedOrders(engine, snowflake, cache),
        bulks=Bulks(engine, snowflake),
        history=history,
        listing=Listing(engine),
        statements=Statements(engine),
        way_on=way_on,
        dead_letters=DeadLetters(engine, way_on),
        freezes=Freezes(engine, cache),
        cache=cache,
        line=line,
        shares_redis=shares_redis,
        waiting=Room(history.find_ended),
        # They are numbered a few times a second: a look is a question for all who wait, ten times a second.
        waiting_for_events=Room(partial(events.find_followed, engine), first_pause_s=LONGEST_PAUSE_S),
        readings=Readings(settings, way_on),
    )
