"""The brokers that are measured, what is in their topics, and the group that reads them."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from sqlalchemy import text

from bench.crew import READY_TIMEOUT_S, dismiss
from bench.figures import BenchError
from bench.site import SERVICE, Site
from config import Settings
from jobs.kafka import topics
from jobs.kafka.clients import make_admin, make_producer, make_reader
from jobs.kafka.group import find_group
from jobs.kafka.records import encode
from jobs.kafka.sending import Sender
from jobs.kafka.topics import ALL, REQUESTED, WORK, key_of
from jobs.relay import TURN
from jobs.transport import TransportAway
from models.database.turn import Turn
from models.ledger import attempts
from ops.local import processes
from ops.local.kafka.cluster import KafkaCluster
from ops.local.kafka.java import find_java, find_maven
from ops.local.kafka.runtime import find_runtime
from ops.local.kafka.server import KafkaServer
from ops.local.processes import Command, StackError

ANSWER_S = 15.0
PRODUCED_AT_ONCE = 5_000
# Longer than anybody is held still here, so that he is still a member when he is let go.
HELD_SESSION = MappingProxyType(
    {"group.consumer.session.timeout.ms": "45000", "group.consumer.max.session.timeout.ms": "60000"}
)
# Nobody relays for so long, unless the turn is given back before.
TURN_S = 300.0
# Between two looks at how far the group has come; nearer to the end it is looked at more often.
FAR_S, NEAR_S, NEAR_SHARE = 0.1, 0.01, 0.1
STALLED_S = 60.0

# What the books have of places in topics means nothing in new ones; what is told of events begins with those to come.
_FORGET = """
TRUNCATE holdings, sendings;
INSERT INTO announcements (topic, upto) SELECT :topic, last_event FROM event_head
ON CONFLICT (topic) DO UPDATE SET upto = excluded.upto
"""


def find_lack() -> str | None:
    """Return what there would have to be for a broker to run here; None: there is all of it."""
    try:
        find_java()
        if not find_runtime().jars.is_dir():
            find_maven()
    except StackError as error:
        return str(error).removeprefix("kafka: ")
    return None


class Brokers:
    """One broker that runs, or several, as the service sees them."""

    def __init__(self, site: Site, servers: Sequence[KafkaServer]) -> None:
        """Make the topics that are not there."""
        self.site = site
        self.servers = servers
        self.url = ",".join(server.url for server in servers)
        self.environment = {"TRANSPORT": "kafka", "KAFKA_BROKERS": self.url}
        self.admin = make_admin(self.settings)
        topics.make_topics(self.admin, partitions=self.settings.kafka_partitions)
        self._reader = make_reader(self.settings)

    def close(self) -> None:
        """Let go of the clients while their brokers are there: without them their end may wait for ever."""
        self._reader.close()
        del self.admin

    @property
    def settings(self) -> Settings:
        """What a process of the service would read."""
        given = {name.lower(): value for name, value in self.environment.items()}
        return Settings.model_validate(self.site.settings().model_dump() | given)

    def worker(self, number: int) -> Command:
        """Return one of the service's own workers, to be launched."""
        return self.site.command(f"kafka-worker-{number}", "worker.py", **self.environment)

    def forget(self) -> None:
        """Let the books begin anew as well, in what they have of topics. The backlog has been laid out before."""
        with self.site.engines[SERVICE].begin() as connection:
            for statement in _FORGET.split(";"):
                connection.execute(text(statement), {"topic": topics.EVENTS} if ":topic" in statement else {})

    def produce(self) -> int:
        """Send a record for every pending transfer, as whoever accepts them does, and return how many that were.

        Raises:
            BenchError: not all of them have arrived.
        """
        engine, sent = self.site.engines[SERVICE], 0
        sender = Sender(lambda: make_producer(self.settings), listens=False)
        with engine.connect() as connection:
            ids = [*connection.scalars(text("SELECT id FROM transfers WHERE status = 'pending' ORDER BY id"))]
        dues = [
            due
            for first in range(0, len(ids), PRODUCED_AT_ONCE)
            for due in attempts.find_due(engine, ids[first : first + PRODUCED_AT_ONCE])
        ]
        for number, due in enumerate(dues, 1):
            sent += sender.send(REQUESTED, key_of(due.source), encode(due))
            if (number % PRODUCED_AT_ONCE == 0 or number == len(dues)) and not sender.flush(ANSWER_S):
                raise BenchError("the broker does not take the records")
        if sent != len(ids):
            raise BenchError(f"{sent} of {len(ids)} records were sent")
        return sent

    def count_unread(self) -> int:
        """Return how many records of work the group has not read to their end."""
        ends = self._ends()
        told = self._reader.committed([TopicPartition(*place) for place in ends], ANSWER_S)
        read = {(each.topic, each.partition): max(0, each.offset) for each in told}
        return sum(max(0, end - read[place]) for place, end in ends.items())

    def wait_until_read(self, count: int) -> float:
        """Wait until the group has read all of some records; return that instant of the monotonic clock.

        Raises:
            BenchError: nothing has moved for a while.
        """
        before, moved_at = -1, time.monotonic()
        while left := self.count_unread():
            now = time.monotonic()
            if left != before:
                before, moved_at = left, now
            elif now - moved_at > STALLED_S:
                raise BenchError(f"the consumers have stopped working: {left} records are unread")
            time.sleep(FAR_S if left > count * NEAR_SHARE else NEAR_S)
        return time.monotonic()

    def count_shares(self) -> list[int]:
        """Return how many partitions each member of the group has."""
        try:
            return [each.partitions for each in find_group(self.settings).members]
        except TransportAway:  # one that has just started does not know yet
            return []

    def delete_topics(self) -> None:
        """Delete all of them."""
        for done in self.admin.delete_topics([*ALL], request_timeout=ANSWER_S).values():
            with suppress(KafkaException):
                done.result(ANSWER_S)

    @contextmanager
    def group(self, workers: Sequence[Command]) -> Iterator[None]:
        """Have workers run, from when they share all partitions evenly until the end of it.

        Raises:
            BenchError: they do not get that far.
        """
        share = len(WORK) * self.settings.kafka_partitions // len(workers)

        def are_running() -> bool:
            return all(worker.is_running for worker in workers)

        def are_at_work() -> bool:
            return self.count_shares() == [share] * len(workers)

        try:
            for worker in workers:
                worker.launch()
            processes.wait_for(lambda: not are_running() or are_at_work(), READY_TIMEOUT_S)
            if not are_running() or not are_at_work():
                raise BenchError("; ".join(f"{each.spec.name}: {each.complaint()}" for each in workers))
            yield
        finally:
            dismiss(workers)

    def _ends(self) -> Mapping[tuple[str, int], int]:
        places = [TopicPartition(name, number) for name in WORK for number in range(self.settings.kafka_partitions)]
        wanted = {each: OffsetSpec.latest() for each in places}  # type: ignore[no-untyped-call]
        asked = self.admin.list_offsets(wanted, request_timeout=ANSWER_S)
        return {(each.topic, each.partition): future.result(ANSWER_S).offset for each, future in asked.items()}


@contextmanager
def one_broker(site: Site, *, properties: Mapping[str, str] = MappingProxyType({})) -> Iterator[Brokers]:
    """Have a broker run, on the data of the last one.

    Raises:
        StackError: it does not start.
    """
    with KafkaServer(site.home, properties=properties) as server:
        brokers = Brokers(site, [server])
        try:
            yield brokers
        finally:
            brokers.close()


@contextmanager
def three_brokers(site: Site) -> Iterator[Brokers]:
    """Have three brokers run, that keep copies of each other's topics. They are new ones, each of which leads a third.

    Raises:
        StackError: they do not start.
    """
    with tempfile.TemporaryDirectory(dir=site.home) as home:
        cluster = KafkaCluster(Path(home))
        try:
            cluster.start()
            brokers = Brokers(site, cluster.servers)
            try:
                yield brokers
            finally:
                brokers.close()
        finally:
            cluster.kill()  # an orderly stop of all takes five seconds: the last ones wait for the first


@contextmanager
def no_relay(site: Site) -> Iterator[Turn]:
    """Have the relay's turn, so that nobody relays, until it is given back.

    Raises:
        BenchError: somebody else has it, and goes on.
    """
    turn = Turn(site.engines[SERVICE], TURN, ttl_s=TURN_S)
    if not processes.wait_for(turn.is_mine, READY_TIMEOUT_S):
        raise BenchError("somebody else relays")
    try:
        yield turn
    finally:
        turn.give_back()
