"""How fast a backlog of Kafka's records is worked off, and what announcing events costs of that."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import psycopg2
from sqlalchemy import text

from bench import backlog
from bench.backlog import Spread
from bench.crew import send
from bench.figures import SETTLED, BenchError, Figure, Plan, Ratio, Values
from bench.kafka.brokers import HELD_SESSION, no_relay, one_broker
from bench.parts import cpu_s
from bench.site import SERVICE, Site
from jobs.kafka.topics import EVENTS

# The events of a backlog are announced this long after its last posting, or the announcer stands still.
ANNOUNCED_TIMEOUT_S = 60.0
POLL_S = 0.02

_LAST_EVENT = "SELECT last_event FROM event_head"
_IS_ALL_TOLD = "SELECT last_event >= :last AND upto >= :last FROM event_head, announcements WHERE topic = :topic"


@dataclass(frozen=True, slots=True)
class KafkaDrain:
    """The service's consumers on a backlog, from the instant they may begin until all is posted and read.

    ``is_silent``: events are neither numbered nor announced meanwhile.
    """

    spread: Spread
    ratios: tuple[Ratio, ...] = ()
    announced_ratios: tuple[Ratio, ...] = ()
    is_silent: bool = False
    consumers: int = 2
    needs_kafka: ClassVar[bool] = True

    @property
    def rounds(self) -> int:
        """What is only compared with is measured less often."""
        return 3 if self.is_silent else sys.maxsize

    @property
    def name(self) -> str:
        """Such as ``kafka_drain_uniform_2``."""
        return f"kafka_drain_{self.spread.value}_{self.consumers}" + ("_silent" if self.is_silent else "")

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers a second, and those of which everybody has been told as well."""
        where = {Spread.UNIFORM: f"{backlog.WALLETS:,} wallets", Spread.HOT: "one hot wallet"}[self.spread]
        label = f"drain over Kafka, {where}, {self.consumers} consumers"
        if self.is_silent:
            return (Figure(key=self.name, label=f"{label}, without events", unit="/s", is_yardstick=True),)
        drained = Figure(key=self.name, label=label, unit="/s", ratios=self.ratios, heading=SETTLED)
        if not self.announced_ratios:
            return (drained,)
        label = f"{label}, until all events are announced"
        return drained, Figure(key=f"{self.name}_announced", label=label, unit="/s", ratios=self.announced_ratios)

    def take(self, site: Site, plan: Plan) -> Values:
        """Work off ``plan.jobs``; beside the rates, what a transfer costs each part on processors, in µs."""
        with ExitStack() as stack:
            kafka = stack.enter_context(one_broker(site, properties=HELD_SESSION))
            turn = stack.enter_context(no_relay(site))
            workers = [kafka.worker(number) for number in range(1, self.consumers + 1)]
            stack.enter_context(kafka.group(workers))
            backlog.lay_out(site, SERVICE, plan.jobs, self.spread)
            kafka.forget()
            if self.is_silent:
                stack.enter_context(_no_numbers(site))
            first_event = _last_event(site)
            send(workers, signal.SIGSTOP)
            kafka.produce()
            turn.give_back()
            parts = {
                "workers": [worker.pid or 0 for worker in workers],
                "postgresql": [site.postgres.pid or 0],
                "broker": [server.pid or 0 for server in kafka.servers],
            }
            before = cpu_s(parts)
            began = time.monotonic()
            send(workers, signal.SIGCONT)
            drained_s = kafka.wait_until_read(plan.jobs) - began
            announced_s = drained_s if self.is_silent else _wait_until_told(site, first_event + plan.jobs) - began
            spent = cpu_s(parts)
        backlog.check(site.engines[SERVICE], posted=plan.jobs)
        cpu = {f"{self.name}_cpu_{part}": (spent[part] - before[part]) / plan.jobs * 1e6 for part in parts}
        return {self.name: plan.jobs / drained_s, f"{self.name}_announced": plan.jobs / announced_s, **cpu}


@contextmanager
def _no_numbers(site: Site) -> Iterator[None]:
    """Have the lock that whoever numbers events needs."""
    with closing(psycopg2.connect(site.url(SERVICE))) as connection, connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT FROM event_head FOR UPDATE")
        yield
        connection.rollback()


def _last_event(site: Site) -> int:
    with site.engines[SERVICE].connect() as connection:
        return int(connection.scalar(text(_LAST_EVENT)) or 0)


def _wait_until_told(site: Site, last: int) -> float:
    """Wait until the event with this id is announced; return that instant of the monotonic clock."""

    def is_told() -> bool:
        with site.engines[SERVICE].connect() as connection:
            return bool(connection.scalar(text(_IS_ALL_TOLD), {"last": last, "topic": EVENTS}))

    deadline = time.monotonic() + ANNOUNCED_TIMEOUT_S
    while not is_told():
        if time.monotonic() > deadline:
            raise BenchError("not all events are announced")
        time.sleep(POLL_S)
    return time.monotonic()
