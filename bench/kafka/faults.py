"""What is lost, and for how long, when a consumer, a broker or all topics are: under a load over HTTP."""

import asyncio
import math
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import text

from bench import backlog
from bench.backlog import WALLETS, Spread
from bench.crew import send
from bench.figures import BenchError, Figure, Plan, Values
from bench.http_client import Connection, at_rate
from bench.kafka.brokers import Brokers, no_relay, one_broker, three_brokers
from bench.site import SERVICE, Site
from bench.steady import WORKERS
from jobs.kafka.topics import key_of, partition_of
from models.ledger import deliveries
from ops.local import processes
from ops.local.processes import Command

# What is asked meanwhile, how long before a fault, and how long in all: longer than any of these is to last.
RATE = 60
BEFORE_S, LOAD_S = 2.0, 13
# A broker that is killed is started again after this long.
AWAY_S = 5.0
READY_TIMEOUT_S = 60.0
PENDING = 2_000

# When the first transfer of each payer was posted, of those that were accepted after an instant.
_AFTER = "SELECT source, completed_at FROM transfers WHERE kind = 'transfer' AND created_at >= :since"
_LAST_BEFORE = "SELECT max(completed_at) FROM transfers WHERE kind = 'transfer' AND created_at < :until"
_LONGEST = """
SELECT extract(epoch FROM max(completed_at - created_at))::float8 FROM transfers WHERE kind = 'transfer'
"""


class _Answers:
    """What became of the requests of a load."""

    def __init__(self, under_way: "Future[list[tuple[float, float]]]") -> None:
        self._under_way = under_way

    def end(self, site: Site) -> tuple[int, float]:
        """Wait for all of it, and until all that was accepted is posted; return the errors, and the longest answer.

        The longest answer is in seconds, from when its request was due.

        Raises:
            BenchError: something was lost, or posted twice.
        """
        answers = self._under_way.result()
        backlog.wait_until_final(site.engines[SERVICE])
        errors = sum(math.isinf(at) for _, at in answers)
        # One that was answered with an error may have been recorded all the same.
        with site.engines[SERVICE].connect() as connection:
            recorded = int(connection.scalar(text("SELECT count(*) FROM transfers WHERE kind = 'transfer'")) or 0)
        if recorded < len(answers) - errors:
            raise BenchError(f"{len(answers) - errors} transfers were accepted, and {recorded} are there")
        backlog.check(site.engines[SERVICE], posted=recorded)
        return errors, max(at - due for due, at in answers if not math.isinf(at))


@contextmanager
def _load(kafka: Brokers) -> Iterator[_Answers]:
    """Have an API accept transfers meanwhile; what is yielded is to be ended."""
    site = kafka.site
    with site.api(**kafka.environment) as api, ThreadPoolExecutor(1) as pool:
        asyncio.run(at_rate(api.port, RATE, RATE, _transfer))
        backlog.wait_until_final(site.engines[SERVICE])
        backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
        yield _Answers(pool.submit(asyncio.run, at_rate(api.port, RATE, RATE * LOAD_S, _transfer)))


async def _transfer(connection: Connection, _number: int) -> float:
    """Send one transfer between random wallets, and return when it was accepted; infinity: it was not."""
    payer, payee = random.sample(range(1, WALLETS + 1), 2)
    order: dict[str, object] = {"destination_user_id": payee, "amount": 67}
    try:
        await connection.ask("POST", "/api/transfer/v2", user=payer, body=order)
    except (OSError, EOFError) as error:
        print(f"bench: a caller was told {error}", file=sys.stderr)
        return math.inf
    return time.monotonic()


def _lay_out(kafka: Brokers) -> None:
    backlog.lay_out(kafka.site, SERVICE, 0, Spread.UNIFORM)
    kafka.forget()


@contextmanager
def _under_load(kafka: Brokers) -> Iterator[tuple[list[Command], _Answers]]:
    """Begin anew, and have workers and a load run for a while; yield both, as something is to be killed."""
    _lay_out(kafka)
    workers = [kafka.worker(number) for number in range(1, WORKERS + 1)]
    with kafka.group(workers), _load(kafka) as answers:
        time.sleep(BEFORE_S)
        yield workers, answers


@dataclass(frozen=True, slots=True)
class ConsumerKilled:
    """One of two consumers is killed: until a transfer of every partition that was sent since is posted."""

    at_most_s: float
    name: str = "kafka_consumer_killed"
    needs_kafka: ClassVar[bool] = True
    rounds: ClassVar[int] = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Seconds."""
        label = "a consumer killed: until all its partitions are served"
        return (Figure(key=self.name, label=label, unit="s", at_most=self.at_most_s),)

    def take(self, site: Site, plan: Plan) -> Values:
        """Kill it under a load."""
        del plan
        with one_broker(site) as kafka, _under_load(kafka) as (workers, answers):
            killed_at = deliveries.find_now(site.engines[SERVICE])
            workers[0].send(signal.SIGKILL)
            answers.end(site)
            partitions = kafka.settings.kafka_partitions
        return {self.name: (_served_at(site, killed_at, partitions) - killed_at).total_seconds()}


@dataclass(frozen=True, slots=True)
class BrokerKilled:
    """The only broker is killed, and started again: until what was accepted before it answered is posted."""

    at_most_s: float
    name: str = "kafka_broker_killed"
    needs_kafka: ClassVar[bool] = True
    rounds: ClassVar[int] = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Seconds, and errors."""
        label = "the only broker killed: from its return until all of before is posted"
        return (
            Figure(key=self.name, label=label, unit="s", at_most=self.at_most_s),
            Figure(key=f"{self.name}_errors", label="errors that callers were told meanwhile", unit=""),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Kill it under a load."""
        del plan
        with one_broker(site) as kafka, _under_load(kafka) as (_, answers):
            (broker,) = kafka.servers
            broker.kill()
            time.sleep(AWAY_S)
            broker.launch()
            if not processes.wait_for(broker.is_ready, READY_TIMEOUT_S):
                raise BenchError(f"the broker does not come back: {broker.complaint()}")
            back_at = deliveries.find_now(site.engines[SERVICE])
            errors, _ = answers.end(site)
        last = _scalar(site, _LAST_BEFORE, until=back_at)
        return {self.name: max(0.0, (last - back_at).total_seconds()), f"{self.name}_errors": errors}


@dataclass(frozen=True, slots=True)
class OneOfThreeKilled:
    """One of three brokers is killed: the longest that anybody waited for an acceptance, or for a posting."""

    at_most_s: float
    name: str = "kafka_one_of_three_killed"
    needs_kafka: ClassVar[bool] = True
    rounds: ClassVar[int] = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Seconds, and errors."""
        label = "one of three brokers killed"
        return (
            Figure(key=self.name, label=f"{label}, longest to posted", unit="s", at_most=self.at_most_s),
            Figure(
                key=f"{self.name}_accepted", label=f"{label}, longest to accepted", unit="s", at_most=self.at_most_s
            ),
            Figure(key=f"{self.name}_errors", label=f"{label}, errors at callers", unit="", at_most=0),
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Kill it under a load."""
        del plan
        with three_brokers(site) as kafka, _under_load(kafka) as (_, answers):
            kafka.servers[0].kill()
            errors, longest_s = answers.end(site)
        posted_s = _scalar(site, _LONGEST)
        return {self.name: posted_s, f"{self.name}_accepted": longest_s, f"{self.name}_errors": errors}


@dataclass(frozen=True, slots=True)
class TopicsDeleted:
    """All topics are deleted, with a backlog in them: until all of it is posted."""

    at_most_s: float
    name: str = "kafka_topics_deleted"
    needs_kafka: ClassVar[bool] = True
    rounds: ClassVar[int] = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Seconds."""
        label = f"all topics deleted: until {PENDING:,} pending transfers are posted"
        return (Figure(key=self.name, label=label, unit="s", at_most=self.at_most_s),)

    def take(self, site: Site, plan: Plan) -> Values:
        """Delete them while the consumers are held still."""
        del plan
        with ExitStack() as stack:
            kafka = stack.enter_context(one_broker(site))
            turn = stack.enter_context(no_relay(site))
            workers = [kafka.worker(number) for number in range(1, WORKERS + 1)]
            stack.enter_context(kafka.group(workers))
            backlog.lay_out(site, SERVICE, PENDING, Spread.UNIFORM)
            kafka.forget()
            send(workers, signal.SIGSTOP)
            kafka.produce()
            kafka.delete_topics()
            turn.give_back()
            began = time.monotonic()
            send(workers, signal.SIGCONT)
            backlog.wait_until_final(site.engines[SERVICE])
            ended = time.monotonic()
        backlog.check(site.engines[SERVICE], posted=PENDING)
        return {self.name: ended - began}


def _served_at(site: Site, since: datetime, partitions: int) -> datetime:
    """Return when the last of the partitions had a transfer posted that was accepted since.

    Raises:
        BenchError: there was none for one of them.
    """
    firsts: dict[int, datetime] = {}
    with site.engines[SERVICE].connect() as connection:
        rows: Sequence[Any] = connection.execute(text(_AFTER), {"since": since}).all()
    for source, completed_at in rows:
        place = partition_of(key_of(source), partitions)
        firsts[place] = min(firsts.get(place, completed_at), completed_at)
    if len(firsts) != partitions:
        raise BenchError(f"of {partitions} partitions {len(firsts)} had transfers")
    return max(firsts.values())


def _scalar(site: Site, statement: str, **given: object) -> Any:
    with site.engines[SERVICE].connect() as connection:
        return connection.scalar(text(statement), given)
