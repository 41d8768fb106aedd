"""Whether the topics of work are still those that they were.

librdkafka takes what it is told of a topic for old news when its leader's epoch is lower than the last one that it
knew, also when it is another topic by the same name, as it is after somebody has deleted it (seen with version 2.16).
A consumer is then assigned its partitions, and reads nothing, for ever. One that is made afterwards reads.
"""

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from jobs.kafka.clients import ANSWER_S
from jobs.kafka.topics import WORK

# Between two looks.
WATCH_S = 2.0


class TopicWatch:
    """Looks now and then, and waits for no answer: who asks is told what has been heard by then."""

    def __init__(self, admin: AdminClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet."""
        self._admin = admin
        self._clock = clock
        self._ids: dict[str, str] = {}
        self._asked: dict[str, Any] = {}
        self._next_at = float("-inf")

    def has_seen_others(self) -> bool:
        """Whether one of them has turned out to be another one than before. It is told once."""
        if not self._asked:
            if self._clock() >= self._next_at:
                self._next_at = self._clock() + WATCH_S
                self._asked = self._admin.describe_topics(TopicCollection([*WORK]), request_timeout=ANSWER_S)
            return False
        if not all(each.done() for each in self._asked.values()):
            return False
        heard = {name: each.result() for name, each in self._asked.items() if each.exception() is None}
        self._asked = {}
        ids = {name: str(told.topic_id) for name, told in heard.items()}
        before = self._ids
        self._ids = before | ids
        return any(before.get(name, each) != each for name, each in ids.items())
