"""A host with a Kafka broker, and what is on its topics."""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from config import Settings
from jobs.kafka.group import find_group
from jobs.kafka.topics import EVENTS, RETRY
from ops.local.kafka.server import KafkaServer
from ops.local.server import LOOPBACK
from tests.hosts.network import Network

PORT, CONTROLLER_PORT = 9092, 9093
# Few, so that of a handful of payers some are on each.
PARTITIONS = 4
ANSWER_S = 10.0


class BrokerHost:
    """It runs while this is used as a context manager. What is asked of it is asked from the clients' host."""

    def __init__(self, network: Network, home: Path) -> None:
        """Start nothing yet."""
        self.host = network.add("broker")
        self.url = f"{self.host.address}:{PORT}"
        # It is its own controller, which nobody else has to reach.
        where = {
            "listeners": f"CLIENT://:{PORT},CONTROLLER://{LOOPBACK}:{CONTROLLER_PORT}",
            "advertised.listeners": f"CLIENT://{self.url}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{CONTROLLER_PORT}",
        }
        self._server = KafkaServer(home, port=PORT, properties=where)
        self._opened = ExitStack()

    @property
    def settings(self) -> dict[str, str]:
        """Return those of a service that uses it."""
        return {"TRANSPORT": "kafka", "KAFKA_BROKERS": self.url, "KAFKA_PARTITIONS": str(PARTITIONS)}

    def members(self) -> dict[str, int]:
        """Return how many partitions of work the group's members have, by the addresses of their hosts."""
        found = find_group(Settings.model_construct(kafka_brokers=self.url))
        return {each.host: each.partitions for each in found.members}

    def sent_again(self) -> list[int]:
        """Return the transfers that the relay took to be lost and sent again, as often as it did, by their ids.

        All else that it sends had a failed attempt before.
        """
        records = [orjson.loads(message.value() or b"") for message in self._read(RETRY)]
        return sorted(int(each["transfer_id"]) for each in records if each["attempts"] == 0)

    def events(self) -> list[dict[str, Any]]:
        """Return what has been announced, some of it more than once perhaps."""
        return [orjson.loads(message.value() or b"") for message in self._read(EVENTS)]

    def __enter__(self) -> Self:
        self._server.install()  # from where there is a network
        with self.host.namespace.entered():
            self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
        self._server.stop()

    @cached_property
    def _reader(self) -> Consumer:
        reader = Consumer({"bootstrap.servers": self.url, "group.id": "tests", "enable.auto.commit": False})
        self._opened.callback(reader.close)
        return reader

    def _read(self, topic: str) -> list[Message]:
        """Read all that there is at this moment, or was before."""
        places = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        ends = [self._reader.get_watermark_offsets(each, timeout=ANSWER_S)[1] for each in places]
        self._reader.assign(places)
        found: list[Message] = []
        while len(found) < sum(ends):
            found += [each for each in self._reader.consume(1_000, timeout=0.1) if each.error() is None]
        self._reader.unassign()
        return found
