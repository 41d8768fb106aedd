"""The way of accepted transfers onto the topic, from a request.

The thread that accepted one sends it, after the commit and before the answer: so a payer's transfers are on the topic
in the order in which they were answered. That takes microseconds, and never waits.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import closing

from config import Settings
from jobs.kafka.clients import make_producer
from jobs.kafka.records import encode
from jobs.kafka.sending import Sender
from jobs.kafka.topics import REQUESTED, key_of
from models.ledger.attempts import Due

# What an ending process waits for its last ones.
CLOSE_TIMEOUT_S = 2.0
# How long a broker may take to be there.
PING_TIMEOUT_S = 0.5


class KafkaWayOn:
    """Sends accepted transfers; when no broker answers they fail after seconds, and the relay sends them."""

    dependency = "kafka"

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._sender = Sender(lambda: make_producer(settings))
        self._brokers = settings.kafka_brokers or ""

    def put_on(self, due: Due) -> None:
        """Have a recorded transfer carried."""
        self._sender.send(REQUESTED, key_of(due.source), encode(due))

    def put_back(self, dues: Sequence[Due]) -> bool:
        """Leave it to the relay, which finds what is due again within a fraction of a second."""
        return bool(dues) or True

    def ping(self) -> bool:
        """Whether one of the brokers that are named takes a connection.

        Not by Kafka's client, whose questions hold up every greenlet of a process.
        """
        for address in self._brokers.split(","):
            host, _, port = address.rpartition(":")
            try:
                with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=PING_TIMEOUT_S)):
                    return True
            except OSError:
                continue
        return False

    def close(self) -> None:
        """Send on what is on its way, within a bounded time."""
        self._sender.close(CLOSE_TIMEOUT_S)


def make(settings: Settings) -> KafkaWayOn:
    """Make it."""
    return KafkaWayOn(settings)


def make_counter(settings: Settings) -> Callable[[], dict[str, int]]:
    """Return what counts nothing: the relay tells how far behind the workers are."""
    del settings
    return dict
