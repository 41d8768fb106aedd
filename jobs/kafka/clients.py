"""Kafka's clients, made from the settings. None outlives a fork, so each is made by the process that uses it."""

import logging
import socket
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from config import Settings
from jobs.kafka.complaints import Complaints

# How long a record may be on its way. An older one that arrives after all is only a repetition: the relay has sent it.
MESSAGE_TIMEOUT_S = 5.0
# How long somebody who asks waits for an answer: on a machine that is busy, or from a cluster that has just lost one of
# its brokers, it may take seconds.
ANSWER_S = 4.0
# Who dies silently is found out by his group after this long (classic groups; of the others, brokers say it).
SESSION_MS, HEARTBEAT_MS = 6_000, 1_000
# What was deleted and made anew is found within this time.
METADATA_MS = 2_000
# Records that a producer holds, at most.
MOST_QUEUED = 20_000
GROUP = "wallet-transfers"

_log = logging.getLogger("kafka")
_errors = Complaints("brokers away")


def _common(settings: Settings) -> dict[str, Any]:
    given = {
        "bootstrap.servers": settings.kafka_brokers,
        "client.id": "wallet",
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password and settings.kafka_sasl_password.get_secret_value(),
        "ssl.ca.location": settings.kafka_ssl_ca and str(settings.kafka_ssl_ca),
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "socket.connection.setup.timeout.ms": 2_000,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "allow.auto.create.topics": False,
        # Connected where it need be only, librdkafka tries a dead broker again without any pause for as long as the
        # others name it as the group's coordinator: a core for each client, just when one of the brokers is gone
        # (seen with version 2.16).
        "enable.sparse.connections": False,
        # What its own lines say of connections, over and over, is what whoever is told of errors hears, too.
        "log_level": 2,
        "error_cb": _errors.add,
    }
    return {name: value for name, value in given.items() if value is not None}


def make_producer(settings: Settings, **others: Any) -> Producer:
    """Make a producer that keeps the order in which it is given records, also over a retry of its own.

    Each record goes to where any client would send its key, in any language: Java's partitioner.
    """
    return Producer(
        {
            **_common(settings),
            "enable.idempotence": True,
            "message.timeout.ms": round(MESSAGE_TIMEOUT_S * 1_000),
            # Nothing waits for company: what is answered to a payer is on its way before his next call can be.
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": MOST_QUEUED,
            **others,
        },
        logger=_log,
    )


def make_announcing_producer(settings: Settings) -> Producer:
    """Make a producer of very many records at a time, which are in no hurry, and of which failures alone are told."""
    return make_producer(settings, **{"delivery.report.only.error": True, "linger.ms": 20, "compression.type": "lz4"})


def make_consumer(settings: Settings) -> Consumer:
    """Make a member of the group that shares the work. Nothing is committed but what it is told to."""
    # By range, each topic is shared among all; uniformly, one member may have all of one topic, and others have little.
    groups: dict[str, Any] = {"group.protocol": "consumer", "group.remote.assignor": "range"}
    if settings.kafka_group_protocol == "classic":
        groups = {
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": HEARTBEAT_MS,
        }
    return Consumer(
        {
            **_common(settings),
            **groups,
            "group.id": GROUP,
            # As the group shows its members.
            "client.id": f"wallet-{socket.gethostname()}",
            "enable.auto.commit": False,
            # A topic that was made anew begins below what was committed.
            "auto.offset.reset": "earliest",
        },
        logger=_log,
    )


def make_reader(settings: Settings) -> Consumer:
    """Make a client that looks at records, and is no member of the group."""
    return Consumer(
        {
            **_common(settings),
            "group.id": GROUP,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # As the members begin: a topic may have let go of what was next.
            "auto.offset.reset": "earliest",
        },
        logger=_log,
    )


def make_admin(settings: Settings) -> AdminClient:
    """Make a client that asks about topics and groups, and makes topics."""
    return AdminClient(_common(settings), logger=_log)
