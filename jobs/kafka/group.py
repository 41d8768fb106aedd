"""Who shares the work, as the brokers see it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from config import Settings
from jobs.kafka import apart
from jobs.kafka.clients import ANSWER_S, GROUP, make_admin

# One that has just been started imports before it asks, which takes a machine long that is busy.
_START_S = 30.0
# Of a group that there is not.
NOBODY = -1


class Member(NamedTuple):
    """One worker: the address that it comes from, and how many partitions it has."""

    host: str
    partitions: int


class Group(NamedTuple):
    """The group's members, and the number of the broker that they answer to."""

    coordinator: int
    members: Sequence[Member]


def find_group(settings: Settings) -> Group:
    """Return it; one in which nobody has ever been has no members.

    Raises:
        TransportAway: the brokers do not answer.
    """
    return apart.ask(_describe, settings, timeout_s=ANSWER_S * 2 + _START_S)


def _describe(settings: Settings) -> Group:
    admin = make_admin(settings)  # must outlive what it was asked for
    asked = admin.describe_consumer_groups([GROUP], request_timeout=ANSWER_S)
    try:
        told: Any = asked[GROUP].result(ANSWER_S * 2)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return Group(NOBODY, [])
        raise
    members = [
        Member(each.host.lstrip("/"), len(each.assignment.topic_partitions) if each.assignment else 0)
        for each in told.members
    ]
    return Group(told.coordinator.id, members)
