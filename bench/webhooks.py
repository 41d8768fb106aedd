"""What receivers of webhooks that are dead cost those who settle, and how fast one that is well is told.

Receivers run in a process of their own, and so does who sends, as in production. How many arrive is compared with what
http.client brings there: a new connection for each, as many at a time, and nothing else.
"""

import http.client
import itertools
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from sqlalchemy import text

from bench import asks, backlog
from bench.backlog import Spread
from bench.crew import Crew, at_work
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.receiver import Receivers, receiving
from bench.site import SERVICE, Site
from bench.steady import percentile
from models.ledger import events
from models.ledger.orders import Orders
from models.ledger.transfer import Kind, Order
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from models.webhooks import endpoints, history
from models.webhooks.deliveries import MOST_HELD
from ops.local import processes
from ops.local.processes import Command
from ops.local.server import LOOPBACK

WORKERS = 2
# Endpoints whose receivers do not answer, refuse the connection, and answer 500.
DEAD = {"hanging": 4, "refusing": 3, "broken": 3}
DRAIN_GOAL = 0.95
# All of them are tried within a moment of the first event.
TRIED_TIMEOUT_S = 20.0
# The first arrivals are no measure of the others: imports, threads, connections.
WARM_UP_ARRIVALS = 20
ARRIVAL_TIMEOUT_S = 20.0
# Nothing arrives for so long: all of it has, or, of what was answered already, all that was on its way to be told.
SILENCE_S, SHORT_SILENCE_S = 3.0, 0.2
# Between an arrival and the next transfer, so that it meets those who look now and then at any moment.
MOST_PAUSE_S = 0.25
# As long as what is sent of a transfer.
_BODY = b'{"event_id":"1","type":"transfer.posted","data":{"job_id":"%s"}}' % (b"1" * 600)
_HEADERS = {"Content-Type": "application/json", "User-Agent": "bench", "webhook-id": "1", "Connection": "close"}
_TRIED = text("SELECT count(DISTINCT webhook_id) FROM webhook_deliveries WHERE claims > 0")


class Webhooks:
    """Drains with dead receivers and without any; arrivals at one that is well; how long after its transfer one is."""

    name = "webhooks"

    def __init__(self) -> None:
        self._takes = itertools.count()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers and arrivals a second, milliseconds."""
        dead = sum(DEAD.values())
        idle = "transfer posted to webhook arrived, idle service"
        return (
            Figure(
                key="webhooks_drain_dead",
                label=f"drain, {WORKERS} workers, {dead} webhooks with dead receivers",
                unit="/s",
                ratios=(Ratio("webhooks_drain", DRAIN_GOAL),),
            ),
            Figure(key="webhooks_drain", label="the same without webhooks", unit="/s", is_yardstick=True),
            Figure(
                key="webhooks_sent", label="webhooks arriving at one receiver", unit="/s",
                ratios=(Ratio("webhooks_plain"),),
            ),
            Figure(
                key="webhooks_plain", label=f"the same by http.client alone, {MOST_HELD} at a time", unit="/s",
                is_yardstick=True,
            ),
            Figure(key="webhooks_p50", label=f"{idle}, p50", unit="ms"),
            Figure(key="webhooks_p99", label=f"{idle}, p99", unit="ms"),
        )  # fmt: skip

    def take(self, site: Site, plan: Plan) -> Values:
        """Drain ``plan.jobs`` twice, the other one first each time; then send what that has left in the feed."""
        drains: tuple[Mapping[str, int], ...] = (DEAD, {})
        found: dict[str, float] = {}
        for dead in drains[:: -1 if next(self._takes) % 2 else 1]:
            found |= _drain(site, plan.jobs, dead)
        found |= _send(site, plan.steady_s / 2, plan.window_s)
        waits = _post_each(site, plan.steady_s)
        return found | {
            "webhooks_p50": percentile(waits, 0.5) * 1000,
            "webhooks_p99": percentile(waits, 0.99) * 1000,
            "webhooks_timed": len(waits),
        }


def _drain(site: Site, jobs: int, dead: Mapping[str, int]) -> Values:
    """Work off a backlog beside a process that sends, and tell how many endpoints were tried by its end."""
    backlog.lay_out(site, SERVICE, jobs, Spread.UNIFORM)
    backlog.enqueue(site)
    workers = [site.worker(number) for number in range(1, WORKERS + 1)]
    # Receivers end first: who waits for one that hangs waits no longer.
    with Crew(site.redis, [*workers, _sender(site)]) as crew, receiving() as receivers:
        _register(site, [receivers.urls[name] for name, count in dead.items() for _ in range(count)])
        started = crew.let_go()
        ended = backlog.wait_until_booked(site.redis)
        tried, count = _tried(site), sum(dead.values())
        if not processes.wait_for(lambda: _tried(site) == count, TRIED_TIMEOUT_S):
            raise BenchError(f"{_tried(site)} of {count} dead receivers were tried")
    backlog.check(site.engines[SERVICE], posted=jobs)
    _forget(site)
    name = "webhooks_drain_dead" if dead else "webhooks_drain"
    return {name: jobs / (ended - started), f"{name}_tried": tried}


def _send(site: Site, seconds: float, window_s: float) -> Values:
    """Have one receiver told of all that has happened; before that and after it, http.client posts as to it."""
    with receiving() as receivers:
        plain = [_post_plainly(receivers, window_s)]
        _register(site, [receivers.urls["healthy"]])
        history.replay_since(site.engines[SERVICE], 1, datetime.fromtimestamp(0, UTC))
        with at_work(site.redis, [_sender(site)]):
            sent = _rate_of_arrivals(receivers, seconds)
        plain.append(_post_plainly(receivers, window_s))
    _forget(site)
    return {"webhooks_sent": sent, "webhooks_plain": sum(plain) / len(plain)}


def _rate_of_arrivals(receivers: Receivers, seconds: float) -> float:
    """Return how many different events arrive a second, from when some have, until there are no more or it is over."""
    seen: dict[str, float] = {}
    patience_s, ends_at = ARRIVAL_TIMEOUT_S, math.inf
    while (arrival := receivers.next(patience_s)) is not None and arrival.at < ends_at:
        patience_s = SILENCE_S
        seen.setdefault(arrival.event_id, arrival.at)
        if len(seen) == WARM_UP_ARRIVALS:
            ends_at = arrival.at + seconds
    instants = list(seen.values())[WARM_UP_ARRIVALS - 1 :]
    if len(instants) < 2:
        raise BenchError(f"{len(seen)} webhooks have arrived")
    return (len(instants) - 1) / (instants[-1] - instants[0])


def _post_plainly(receivers: Receivers, seconds: float) -> float:
    """Return how many requests a second http.client has answered, by threads that have one under way each."""
    target = urlsplit(receivers.urls["healthy"])
    together = threading.Barrier(MOST_HELD)

    def post(_thread: int) -> int:
        count = 0
        together.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with closing(http.client.HTTPConnection(target.hostname or "", target.port, timeout=10)) as connection:
                connection.request("POST", target.path, _BODY, _HEADERS)
                answer = connection.getresponse()
                answer.read()
            if answer.status != HTTPStatus.NO_CONTENT:
                raise BenchError(f"the receiver has answered {answer.status}")
            count += 1
        return count

    began = time.monotonic()
    with ThreadPoolExecutor(MOST_HELD) as pool:
        count = sum(pool.map(post, range(MOST_HELD)))
    rate = count / (time.monotonic() - began)
    while receivers.next(SHORT_SILENCE_S) is not None:
        pass  # these are nobody else's
    return rate


def _post_each(site: Site, seconds: float) -> Sequence[float]:
    """Post one transfer after the other; return how many seconds after each its webhook came, the shortest first."""
    waits: list[float] = []
    draws = random.Random(1)
    with ExitStack() as stack:
        stack.enter_context(at_work(site.redis, [site.worker(1), _sender(site)]))
        receivers = stack.enter_context(receiving())
        _register(site, [receivers.urls["healthy"]])
        snowflake = Snowflake(NodeLease(site.engines[SERVICE]))
        stack.callback(snowflake.release)
        orders = Orders(site.engines[SERVICE], snowflake)
        _post_one(orders, draws, receivers)  # all that is made at the first need is made by then
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            time.sleep(draws.uniform(0, MOST_PAUSE_S))
            waits.append(_post_one(orders, draws, receivers))
    return sorted(waits)


def _post_one(orders: Orders, draws: random.Random, receivers: Receivers) -> float:
    payer, payee = asks.draw_pair(draws, Spread.UNIFORM)
    orders.execute(
        Order(
            call="transfer/v1",
            kind=Kind.TRANSFER,
            source=payer,
            destination=payee,
            amount_cents=asks.AMOUNT_CENTS,
        )
    )
    posted_at = time.monotonic()
    if (arrival := receivers.next(ARRIVAL_TIMEOUT_S)) is None:
        raise BenchError("a webhook has not arrived")
    return arrival.at - posted_at


def _sender(site: Site) -> Command:
    """Return who sends, to be launched; it may reach this machine."""
    return site.command("webhooks", "worker.py", "webhooks", WEBHOOK_ALLOW_NETWORKS=f"{LOOPBACK}/32")


def _register(site: Site, urls: Sequence[str]) -> None:
    """Make an endpoint for each, told of all that happens from now on. The first one's id is 1."""
    for number, url in enumerate(urls, 1):
        endpoints.add(site.engines[SERVICE], number, url=url, types=[endpoints.EVERY], user_id=None)


def _forget(site: Site) -> None:
    """Number what has happened, and forget all endpoints. Nobody else may be at work."""
    while events.number(site.engines[SERVICE]):
        pass
    with site.engines[SERVICE].begin() as connection:
        connection.execute(text("TRUNCATE webhooks, webhook_deliveries"))


def _tried(site: Site) -> int:
    with site.engines[SERVICE].connect() as connection:
        return int(connection.execute(_TRIED).scalar_one())
