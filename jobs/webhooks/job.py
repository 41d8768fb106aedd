"""The function that RQ's jobs on the queue ``webhooks`` call by name. Our own worker never comes this way."""

import functools

from config import Settings, load
from jobs.connections import make_engine
from jobs.retries import RetryPolicy
from jobs.webhooks.posting import Poster
from jobs.webhooks.sender import Sender
from models.webhooks.deliveries import Held


def run(webhook_id: str, event_id: str, claims: int) -> str:
    """Make one attempt, unless somebody else has it; return how the delivery stands. What makes any RQ worker send.

    Raises:
        Unavailable: PostgreSQL is away; the attempt is made again.
    """
    sender = make_sender_of_this_process()
    claimed = sender.claim([Held(int(webhook_id), int(event_id), claims)])
    return sender.send(claimed[0]).value if claimed else "left alone"


@functools.cache
def make_sender_of_this_process() -> Sender:
    """Make it when the first job comes."""
    settings = load(Settings)
    return Sender(make_engine(settings), Poster(settings.webhook_allow_networks), RetryPolicy(settings.webhook_delays))
