"""The topics as the relay sees them: what has been lost of what they were given, and what is due once more.

Retries wait in PostgreSQL. When one is due the relay sends it, so that everything on the topic ``retry`` is due and
nothing there holds up anything behind it.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Engine

from config import Settings
from jobs.kafka import topics
from jobs.kafka.announcer import Announcer
from jobs.kafka.audit_topics import TopicsCheck
from jobs.kafka.clients import MESSAGE_TIMEOUT_S, make_admin, make_announcing_producer, make_producer
from jobs.kafka.records import encode
from jobs.kafka.sending import Sender
from jobs.kafka.topics import REQUESTED, RETRY, WORK, key_of, partition_of
from jobs.kafka.unread import Unread, UnreadLooker
from jobs.transport import Fed, TransportAway
from models.audit.audit import Check
from models.database.engine import transaction
from models.ledger import deliveries
from models.ledger.attempts import Due
from models.ledger.deliveries import Waiting
from observe import metrics

# Between two looks whether the topics are still the same ones.
TOPICS_S = 1.0
# Between two looks at how far behind the workers are, for the metrics alone.
LAG_S = 5.0
# A record that was sent so long ago has arrived, or never will: longer than a producer goes on trying.
GRACE = timedelta(seconds=MESSAGE_TIMEOUT_S + 3.0)
# How long the relay waits for what it sends.
FLUSH_S = 3.0
# How often, and how many at a time, sendings are looked through for those that are over.
FORGET_S, FORGET_PAGE = 10.0, 5_000

_log = structlog.get_logger("relay")


class KafkaBacklog:
    """All of it raises :class:`TransportAway` when the brokers do not answer."""

    faults: tuple[type[Exception], ...] = (TransportAway,)

    def __init__(self, settings: Settings, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to nothing yet."""
        self._engine = engine
        self._clock = clock
        self._partitions_of_new = settings.kafka_partitions
        self._admin = make_admin(settings)
        self._looker = UnreadLooker(settings, engine, self._admin)
        self._sender = Sender(lambda: make_producer(settings), listens=False)
        self._announcer = Announcer(engine, Sender(lambda: make_announcing_producer(settings), listens=False))
        self._topics: Mapping[str, tuple[str, int]] = {}
        # Since when a topic is a new one, by PostgreSQL's clock, as far as is known here.
        self._born: dict[str, datetime] = {}
        self._next_topics = self._next_lag = self._next_forgetting = 0.0
        self._forgotten_to = 0

    def take_back(self) -> int:
        """See that the topics are there, and to what is to be tidied. What dead workers hold the group finds itself."""
        self._look_at_topics()
        if self._clock() >= self._next_lag:
            self._next_lag = self._clock() + LAG_S
            self._tell_lag_if_possible()
        if self._clock() >= self._next_forgetting:
            self._next_forgetting = self._clock() + FORGET_S
            with transaction(self._engine) as connection:
                self._forgotten_to = deliveries.forget_sent(connection, after=self._forgotten_to, limit=FORGET_PAGE)
        return 0

    def find_missing(self, ids: Sequence[int]) -> list[int]:
        """Return those that nobody is going to read: never sent, or sent and lost."""
        if not ids:
            return []
        waiting = deliveries.find_waiting(self._engine, ids)
        missing = [each.id for each in waiting if _is_due_again(each)]
        doubted = [each for each in waiting if not _is_due_again(each) and self._may_be_lost(each)]
        if doubted:
            unread = self._looker.look({self._place_of(each) for each in doubted})
            missing += [each.id for each in doubted if self._is_lost(each, unread)]
        return missing

    def feed(self, dues: Sequence[Due]) -> Fed:
        """Send what is due, or was lost.

        It is noted before: killed in between, it is missed after the grace, and sent again; noted after, it would be
        sent twice.
        """
        with transaction(self._engine) as connection:
            deliveries.note_sent(connection, [each.id for each in dues])
        for each in dues:
            self._sender.send(RETRY, key_of(each.source), encode(each))
        if not self._sender.flush(FLUSH_S):
            _log.warning("not all has arrived", jobs=len(dues))
        return Fed(len(dues), 0)

    def announce(self) -> int:
        """Announce the events that there are by now."""
        return self._announcer.run_once()

    def make_check(self, engine: Engine) -> Check:
        """Return the audit of the topics."""
        return TopicsCheck(engine, self)

    def _look_at_topics(self) -> None:
        """Make those anew that are gone, and note since when one is a new one: what was sent before is not in it."""
        if self._clock() < self._next_topics:
            return
        found = topics.find_topics(self._admin)
        if found.keys() != set(topics.ALL):
            if made := topics.make_topics(self._admin, partitions=self._partitions_of_new):
                _log.warning("topics made", topics=made)
            found = topics.find_topics(self._admin)
        if found.keys() != set(topics.ALL):
            raise TransportAway("the topics are not there yet")
        for name, (topic_id, _) in found.items():
            if name in self._topics and self._topics[name][0] != topic_id:
                self._born[name] = deliveries.find_now(self._engine)
        self._topics = found
        self._next_topics = self._clock() + TOPICS_S

    def _tell_lag_if_possible(self) -> None:
        """Tell it; should the brokers take too long, that is no reason to send nothing."""
        try:
            self._tell_lag()
        except TransportAway as error:
            _log.warning("lag not read", cause=str(error))

    def _tell_lag(self) -> None:
        unread = self._looker.look(self._all_places())
        now = deliveries.find_now(self._engine) if unread else datetime.now(UTC)
        for topic in WORK:
            mine = [each for (name, _), each in unread.items() if name == topic]
            metrics.kafka_unread[topic].set(sum(each.records for each in mine))
            oldest_s = max(((now - each.sent_at).total_seconds() for each in mine), default=0.0)
            metrics.kafka_oldest_unread[topic].set(max(0.0, oldest_s))

    def _all_places(self) -> Iterable[tuple[str, int]]:
        return [(topic, number) for topic in WORK for number in range(self._topics[topic][1])]

    def _may_be_lost(self, waiting: Waiting) -> bool:
        return waiting.looked_at - _sent_at(waiting) > GRACE or self._is_before_birth(waiting)

    def _is_before_birth(self, waiting: Waiting) -> bool:
        born = self._born.get(_topic_of(waiting))
        return born is not None and _sent_at(waiting) < born

    def _is_lost(self, waiting: Waiting, unread: Mapping[tuple[str, int], Unread]) -> bool:
        if self._is_before_birth(waiting):
            return True
        first = unread.get(self._place_of(waiting))
        return first is None or _sent_at(waiting) + GRACE < first.sent_at

    def _place_of(self, waiting: Waiting) -> tuple[str, int]:
        topic = _topic_of(waiting)
        if topic not in self._topics:
            self._topics = topics.find_topics(self._admin)
        if topic not in self._topics:
            raise TransportAway(f"the topic {topic} is not there")
        return topic, partition_of(key_of(waiting.source), self._topics[topic][1])


def _is_due_again(waiting: Waiting) -> bool:
    """Whether it has become due since it was last sent."""
    again = waiting.due_again_at
    return again is not None and (waiting.sent_at is None or waiting.sent_at < again)


def _sent_at(waiting: Waiting) -> datetime:
    return waiting.sent_at or waiting.created_at


def _topic_of(waiting: Waiting) -> str:
    """Return where it was last sent: the API sends what it accepts, and the relay all else."""
    return REQUESTED if waiting.sent_at is None else RETRY


def make(settings: Settings, engine: Engine) -> KafkaBacklog:
    """Make it."""
    return KafkaBacklog(settings, engine)
