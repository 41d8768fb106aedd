"""Kafka is killed, stands still, or loses its topics and what is in them; and a consumer comes back from the dead.

That a consumer is killed is the same as with RQ (:mod:`.kill`).
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Any

import psycopg2
from confluent_kafka import OFFSET_END, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from ops.local.kafka.asking import make_client
from tests.chaos.announced import ANSWER_S, TOPICS
from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

# Some are shorter than a record may be on its way (5 s), some longer.
SHORTEST_S, LONGEST_S = 2.5, 7.5
# Longer than a session (6 s), after which the group gives what it had to others.
SHORTEST_TRANCE_S, LONGEST_TRANCE_S = 7.0, 10.0
_FIND_UPTO = "SELECT coalesce(max(upto), 0) FROM announcements"


def kill_broker(stack: Stack, _rng: random.Random) -> bool:
    """Kill the broker."""
    stack.kill(stack.state()["kafka"]["pid"])
    return True


def freeze_broker(stack: Stack, rng: random.Random) -> bool:
    """Let the broker stand still for a while, with all connections open."""
    return _freeze(stack.state()["kafka"]["pid"], rng.uniform(SHORTEST_S, LONGEST_S))


def make_zombie(stack: Stack, rng: random.Random) -> bool:
    """Let a consumer stand still until the group believes it dead, and go on with what it had in hand."""
    worker = rng.choice(stack.state()["workers"])["pid"]
    return _freeze(worker, rng.uniform(SHORTEST_TRANCE_S, LONGEST_TRANCE_S))


def delete_topics(stack: Stack, _rng: random.Random) -> bool:
    """Delete all topics, and with them all that they hold and how far it was read."""

    def lose(admin: AdminClient) -> Iterable[Any]:
        return admin.delete_topics([*TOPICS], request_timeout=ANSWER_S).values()

    return _lose(stack, lose)


def empty_topics(stack: Stack, _rng: random.Random) -> bool:
    """Delete all that the topics hold, which go on where they were."""

    def lose(admin: AdminClient) -> Iterable[Any]:
        known = admin.list_topics(timeout=ANSWER_S).topics
        ends = [TopicPartition(name, n, OFFSET_END) for name in TOPICS if name in known for n in known[name].partitions]
        return admin.delete_records(ends, request_timeout=ANSWER_S).values()

    return _lose(stack, lose)


def _freeze(pid: int, seconds: float) -> bool:
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    try:
        time.sleep(seconds)  # for how long is the experiment
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return True


def _lose(stack: Stack, lose: Callable[[AdminClient], Iterable[Any]]) -> bool:
    """Hear what has been announced, lose the topics, and note what may be gone unheard."""
    brokers = stack.state()["kafka"]["brokers"]
    try:
        read_upto = find_upto(stack)
        stack.announced.read(brokers)
    except (psycopg2.Error, KafkaException, TimeoutError):  # away already
        return False
    admin, is_lost = make_client(brokers), True
    try:
        for each in lose(admin):
            each.result(ANSWER_S * 2)
    except (KafkaException, TimeoutError):
        is_lost = False  # or some of it is, or will be in a moment

    def note() -> bool:
        try:
            stack.announced.lose(read_upto=read_upto, told_upto=find_upto(stack))
        except psycopg2.Error:
            return False
        return True

    wait_until(note, PATIENCE_S, "it is known what had been announced")
    return is_lost


def find_upto(stack: Stack) -> int:
    """Return the last event that has been announced.

    Raises:
        psycopg2.Error: PostgreSQL is away.
    """
    with (
        closing(psycopg2.connect(stack.state()["postgres"]["url"], connect_timeout=2)) as owner,
        owner.cursor() as cursor,
    ):
        cursor.execute(_FIND_UPTO)
        return int((cursor.fetchone() or (0,))[0])
