"""A broker's configuration, as it stands in ``server.properties``."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops.local.server import LOOPBACK

# Days: what waits for longer than a topic keeps it is the relay's, who has it from PostgreSQL.
RETENTION_DAYS = 7
# Relative to the folder that the broker works in: as a setting it is a list with commas between. Hidden, since Kafka
# calls its data *.log, and whoever looks for logs as `**/*.log` below WALLET_HOME wants lines.
LOG_FOLDER = ".topics"
# What stands for itself in a file of properties.
_PLAIN = frozenset(string.printable) - frozenset("\t\n\r\v\f")

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_SAME = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "log.dirs": LOG_FOLDER,
    "auto.create.topics.enable": "false",
    # A consumer's lag is told by the time at which a record came, whatever its producer's clock says.
    "log.message.timestamp.type": "LogAppendTime",
    "log.retention.hours": str(RETENTION_DAYS * 24),
    "offsets.retention.minutes": str(RETENTION_DAYS * 24 * 60),
    # A laptop's share of what Kafka keeps for itself.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    # Groups of consumers: how soon one that is dead is missed, which with KIP-848 is the broker's to say.
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.assignment.interval.ms": "100",
    # And how soon a dead broker is: without these a producer waits for nine seconds, and for longer if the dead one was
    # the controller.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    "controller.quorum.fetch.timeout.ms": "800",
    "controller.quorum.election.timeout.ms": "500",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """How clients get in."""

    protocol: Protocol = "PLAINTEXT"
    # With SASL: how the one user there is proves who it is.
    mechanism: Mechanism | None = None
    username: str = "wallet"
    password: str = ""
    # With SSL: a PEM file with the broker's key and certificate.
    certificate: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody has to prove anything."""
        return self.protocol == "PLAINTEXT"

    @property
    def host(self) -> str:
        """What clients call the broker: certificates are for names."""
        return "localhost" if self.protocol.endswith("SSL") else LOOPBACK

    def properties(self) -> dict[str, str]:
        """The broker's settings of it."""
        found: dict[str, str] = {}
        if self.protocol.endswith("SSL"):
            found["listener.name.client.ssl.keystore.type"] = "PEM"
            found["listener.name.client.ssl.keystore.location"] = str(self.certificate)
        if self.mechanism:
            found["listener.name.client.sasl.enabled.mechanisms"] = self.mechanism
            found[f"listener.name.client.{self.mechanism.lower()}.sasl.jaas.config"] = self._login_module()
        return found

    def _login_module(self) -> str:
        if self.mechanism != "PLAIN":
            return "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        quoted = self.password.replace("\\", "\\\\").replace('"', '\\"')
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return f'{module} required user_{self.username}="{quoted}";'


@dataclass(frozen=True)
class Ports:
    """Where one node listens: for clients, for controllers, and where clients must prove something for who need not."""

    client: int
    controller: int
    inside: int


def broker_properties(node_id: int, nodes: Mapping[int, Ports], access: Access) -> dict[str, str]:
    """The settings of one of several nodes, all of which are brokers and controllers.

    Where clients must prove who they are, there is a listener beside theirs for other brokers and for whoever starts
    them. It is open to all on this machine: good for tests, and for nothing else.
    """
    ports = nodes[node_id]
    client, controller = f"CLIENT://{LOOPBACK}:{ports.client}", f"CONTROLLER://{LOOPBACK}:{ports.controller}"
    inside = [] if access.is_open else [f"INSIDE://{LOOPBACK}:{ports.inside}"]
    copies, least = str(len(nodes)), str(len(nodes) // 2 + 1)
    internal_topics = {
        f"{topic}.{name}": value
        for topic in ("transaction.state.log", "share.coordinator.state.topic")
        for name, value in (("replication.factor", copies), ("min.isr", least))
    }
    return {
        **_SAME,
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(f"{n}@{LOOPBACK}:{at.controller}" for n, at in nodes.items()),
        "listeners": ",".join([client, *inside, controller]),
        "advertised.listeners": ",".join([f"CLIENT://{access.host}:{ports.client}", *inside]),
        "listener.security.protocol.map": f"CLIENT:{access.protocol},INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INSIDE" if inside else "CLIENT",
        "default.replication.factor": copies,
        "min.insync.replicas": least,
        "offsets.topic.replication.factor": copies,
        **internal_topics,
        **access.properties(),
    }


def as_text(properties: Mapping[str, str]) -> str:
    """The lines of a file that ``java.util.Properties`` reads."""
    return "".join(f"{name}={_escape(value)}\n" for name, value in properties.items())


def _escape(value: str) -> str:
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    plain = "".join(chr(code) if chr(code) in _PLAIN else f"\\u{code:04x}" for code in codes)
    return f"\\{plain}" if plain.startswith(" ") else plain
