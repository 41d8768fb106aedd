"""What the group has not read yet: how much, and when the first of it was sent.

Nobody can ask Kafka for a record by its transfer. But a topic has its records in the order in which they were sent, so
what was sent well before the next unread record has been read, or never came.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from sqlalchemy import Engine

from config import Settings
from jobs.kafka.clients import ANSWER_S, make_reader
from jobs.kafka.records import transfer_id_of
from jobs.transport import TransportAway
from models.ledger import deliveries

_READ_AT_ONCE = 100


class Unread(NamedTuple):
    """Of one partition: how many records are unread, and when the first of them was sent."""

    records: int
    sent_at: datetime


class UnreadLooker:
    """Looks at the group's place in its topics. Is no member of it."""

    def __init__(self, settings: Settings, engine: Engine, admin: AdminClient) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._engine = engine
        self._admin = admin
        self._reader: Consumer | None = None

    def look(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Unread]:
        """Return those of the partitions in which something is unread.

        When a record was sent is asked of PostgreSQL, so no clock but its own matters. A record of no transfer has
        only its own word.

        Raises:
            TransportAway: the brokers do not answer.
            Unavailable: PostgreSQL does not.
        """
        try:
            counts, starts = self._find_behind([TopicPartition(topic, number) for topic, number in partitions])
            firsts = self._read_firsts(starts) if starts else {}
        except (KafkaException, TimeoutError) as error:
            self._hang_up()
            raise TransportAway(type(error).__name__) from error
        ids = {place: transfer_id for place, (transfer_id, _) in firsts.items() if transfer_id is not None}
        sent = deliveries.find_sent(self._engine, list(ids.values())) if ids else {}
        return {
            place: Unread(counts[place], sent.get(ids.get(place, 0), own_word))
            for place, (_, own_word) in firsts.items()
        }

    def _find_behind(self, partitions: list[TopicPartition]) -> tuple[dict[tuple[str, int], int], list[TopicPartition]]:
        """Return how far behind the group is, and from where on, of the partitions in which it is."""
        if self._reader is None:
            self._reader = make_reader(self._settings)
        committed = {(each.topic, each.partition): each.offset for each in self._reader.committed(partitions, ANSWER_S)}
        ends = self._find_offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        behind = [each for each in partitions if ends[each] not in (0, committed[each.topic, each.partition])]
        if not behind:
            return {}, []
        begins = self._find_offsets(behind, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        counts, starts = {}, []
        for each in behind:
            place, end, begin = (each.topic, each.partition), ends[each], begins[each]
            # What was next may be gone, and a topic that was made anew ends before it. A number in any case: to ask for
            # "the beginning" costs the client a question of its own, which it may not get answered in time.
            start = max(committed[place], begin) if committed[place] < end else begin
            if start < end:
                counts[place] = end - start
                starts.append(TopicPartition(*place, start))
        return counts, starts

    def _find_offsets(self, partitions: list[TopicPartition], which: OffsetSpec) -> dict[TopicPartition, int]:
        asked = self._admin.list_offsets(dict.fromkeys(partitions, which), request_timeout=ANSWER_S)
        return {each: future.result(ANSWER_S * 2).offset for each, future in asked.items()}

    def _read_firsts(self, starts: list[TopicPartition]) -> dict[tuple[str, int], tuple[int | None, datetime]]:
        """Return the transfer's id of the first record from each place on, and what it says of when it was sent."""
        reader = self._reader
        if reader is None:
            return {}
        firsts: dict[tuple[str, int], tuple[int | None, datetime]] = {}
        missing = {(each.topic, each.partition) for each in starts}
        reader.assign(starts)
        until = time.monotonic() + ANSWER_S
        try:
            while missing:
                if time.monotonic() > until:
                    raise TimeoutError
                for message in reader.consume(_READ_AT_ONCE, timeout=0.02):
                    place = (str(message.topic()), message.partition() or 0)
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - it has no other name
                            missing.discard(place)
                            continue
                        raise KafkaException(error)
                    if place in missing:
                        missing.discard(place)
                        sent_at = datetime.fromtimestamp(message.timestamp()[1] / 1_000, UTC)
                        firsts[place] = transfer_id_of(message.value()), sent_at
        finally:
            reader.unassign()
        return firsts

    def _hang_up(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
