"""The way of accepted transfers onto the topic, from a request.

The thread that accepted one sends it, after the commit and before the answer: so a payer's transfers are on the topic
in the order in which they were answered. That takes microseconds, and never waits.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from config import Settings
from jobs.kafka import pinging
from jobs.kafka.clients import make_producer
from jobs.kafka.records import encode
from jobs.kafka.sending import Sender
from jobs.kafka.topics import REQUESTED, key_of
from models.ledger.attempts import Due

# What an ending process waits for its last ones.
CLOSE_TIMEOUT_S = 2.0


class KafkaWayOn:
    """Sends accepted transfers; when no broker answers they fail after seconds, and the relay sends them."""

    dependency = "kafka"

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._sender = Sender(lambda: make_producer(settings))
        self._settings = settings

    def put_on(self, due: Due) -> None:
        """Have a recorded transfer carried."""
        self._sender.send(REQUESTED, key_of(due.source), encode(due))

    def put_all_on(self, dues: Sequence[Due]) -> None:
        """Have recorded transfers carried."""
        for due in dues:
            self.put_on(due)

    def show_planned(self, planned: Due, at: datetime) -> None:
        """Show nothing: a topic has what is due."""
        del planned, at

    def take_off(self, transfer_id: int) -> None:
        """Take nothing back: a record stays where it is, and its worker finds that it is over."""
        del transfer_id

    def put_back(self, dues: Sequence[Due]) -> bool:
        """Leave it to the relay, which finds what is due again within a fraction of a second."""
        del dues
        return True

    def ping(self) -> bool:
        """Whether one of the brokers that are named answers."""
        return pinging.answers(self._settings)

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
