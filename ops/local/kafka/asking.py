"""A broker asked as its clients ask it. Of all of ``make run`` only this needs their library."""

import logging

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

ANSWER_S = 1.0
CHANGE_S = 15.0
# Each answer that is looked at costs as much: a password that lives on this machine alone needs no more.
SCRAM_ITERATIONS = 4096
# A broker that is still starting is nothing to tell of, and the library would on stderr.
_nowhere = logging.getLogger("kafka.asking")
_nowhere.addHandler(logging.NullHandler())
_nowhere.propagate = False


def make_client(brokers: str) -> AdminClient:
    """A client that says nothing by itself, and tries again soon."""
    return AdminClient(
        {
            "bootstrap.servers": brokers,
            "log_level": 0,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 250,
            "socket.timeout.ms": 5_000,
        },
        logger=_nowhere,
    )


def count_brokers(brokers: str) -> int:
    """How many brokers one of these knows of; 0 when none of them answers within :data:`ANSWER_S`."""
    try:
        return len(make_client(brokers).list_topics(timeout=ANSWER_S).brokers)
    except KafkaException:
        return 0


def let_in(brokers: str, mechanism: str, username: str, password: str) -> None:
    """Make a user known by SCRAM.

    Raises:
        KafkaException: that could not be done.
    """
    kind = ScramMechanism.SCRAM_SHA_256 if mechanism == "SCRAM-SHA-256" else ScramMechanism.SCRAM_SHA_512
    known = UserScramCredentialUpsertion(username, ScramCredentialInfo(kind, SCRAM_ITERATIONS), password.encode())
    client = make_client(brokers)  # must outlive what it was asked for
    for result in client.alter_user_scram_credentials([known], request_timeout=CHANGE_S).values():
        result.result(CHANGE_S)
