"""A producer, and how many of its records have arrived."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException, Producer

from jobs.kafka.complaints import Complaints
from observe import background, metrics

# Delivery is heard of this soon. Not in librdkafka's own wait, which would hold up every greenlet of the process.
LISTEN_S = 0.02

_undelivered = Complaints("records not delivered")


class Sender:
    """Sends records and waits for none of them. Made anew in a process that was forked: see :mod:`.clients`."""

    def __init__(self, make: Callable[[], Producer], *, listens: bool = True) -> None:
        """Connect to nothing yet.

        Args:
            make: makes the producer, at the first need.
            listens: a thread hears what becomes of records; False: :meth:`flush` alone does, and is called often.
        """
        self._make = make
        self._listens = listens
        self._producer: Producer | None = None
        self._making = threading.Lock()
        self._has_work = threading.Event()
        self._is_closed = False
        # Of the records sent since the last :meth:`flush`.
        self._failed = 0
        # Of those that were sent together: of them failures alone are heard of.
        self._arriving = 0

    def send(self, topic: str, key: bytes, value: bytes) -> bool:
        """Have a record sent, and return whether it is on its way.

        It raises nothing, and waits for nothing: what does not arrive is counted, and the relay sends it again.
        """
        producer = self._producer or self._start()
        try:
            producer.produce(topic, value=value, key=key, on_delivery=self._hear)
        except (BufferError, KafkaException):
            metrics.kafka_records["refused"].inc()
            self._failed += 1
            return False
        self._has_work.set()
        return True

    def send_all(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Have many records sent, keys and values. Only without the thread that listens.

        Raises nothing: what does not get away is counted, and :meth:`flush` tells.
        """
        producer = self._producer or self._start()
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in records]
        try:
            sent = producer.produce_batch(topic, messages, on_delivery=self._hear_failure)
        except (BufferError, KafkaException):
            sent = 0
        self._arriving += sent
        if lost := len(messages) - sent:
            metrics.kafka_records["refused"].inc(lost)
            self._failed += lost

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was sent has arrived, or failed; return whether none failed since the last time.

        Only without the thread that listens, and not for processes with greenlets, all of which would wait.
        """
        if self._producer is not None and self._producer.flush(timeout_s):
            return False
        metrics.kafka_records["delivered"].inc(self._arriving)
        failed, self._failed, self._arriving = self._failed, 0, 0
        return not failed

    def close(self, timeout_s: float) -> None:
        """Wait a bounded time for what is on its way, as a greenlet would; what is left the relay sends again."""
        self._is_closed = True
        self._has_work.set()
        producer, self._producer = self._producer, None
        until = time.monotonic() + timeout_s
        while producer is not None and len(producer) and time.monotonic() < until:
            producer.poll(0)
            time.sleep(LISTEN_S)
        if producer is not None:
            producer.purge()

    def _start(self) -> Producer:
        with self._making:
            if self._producer is None:
                self._producer = self._make()
                if self._listens:
                    background.start("kafka_deliveries", self._listen)
            return self._producer

    def _listen(self) -> None:
        """Hear what has become of records: until that is heard they count as being on their way."""
        while not self._is_closed:
            self._has_work.wait()
            self._has_work.clear()
            while (producer := self._producer) is not None and len(producer):
                producer.poll(0)
                time.sleep(LISTEN_S)

    def _hear_failure(self, error: Any, message: Any) -> None:
        # The producer may be one that tells of each.
        if error is not None:
            self._arriving -= 1
            self._hear(error, message)

    def _hear(self, error: Any, _message: Any) -> None:
        # Called out of somebody's poll: it must not raise.
        if error is None:
            metrics.kafka_records["delivered"].inc()
        else:
            self._failed += 1
            metrics.kafka_records["failed"].inc()
            _undelivered.add(error.str())
