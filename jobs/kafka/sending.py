"""A producer, and how many of its records have arrived.

One whose records fail is replaced. Most often brokers are away, and another one does no better. But librdkafka believes
nothing that it is told of a topic whose leader's epoch is lower than the last one that it knew, also when it is a new
topic by the same name, and so goes on to ask who leads it no longer, for good (seen with version 2.16).
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaException, Producer

from jobs.kafka.clients import MESSAGE_TIMEOUT_S
from jobs.kafka.complaints import Complaints
from observe import background, metrics

# Delivery is heard of this soon. Not in librdkafka's own wait, which would hold up every greenlet of the process.
LISTEN_S = 0.02
# The youngest producer that is replaced. By then all that the one before it had on its way has arrived, or failed.
RENEW_S = 2 * MESSAGE_TIMEOUT_S

_undelivered = Complaints("records not delivered")


class Sender:
    """Sends records and waits for none of them. Made anew in a process that was forked: see :mod:`.clients`."""

    def __init__(
        self, make: Callable[[], Producer], *, listens: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect to nothing yet.

        Args:
            make: makes a producer, at the first need, and when one does not deliver.
            listens: a thread hears what becomes of records; False: :meth:`flush` alone does, and is called often.
            clock: in seconds.
        """
        self._make = make
        self._listens = listens
        self._clock = clock
        self._producer: Producer | None = None
        # The one before it, which has until the next is made to send what it has.
        self._former: Producer | None = None
        self._made_at = 0.0
        self._is_doubted = False
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
        producer = self._find()
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
        producer = self._find()
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

    def _find(self) -> Producer:
        producer = self._producer
        if producer is None or (self._is_doubted and self._clock() - self._made_at > RENEW_S):
            return self._start(producer)
        return producer

    def _start(self, former: Producer | None) -> Producer:
        """Make the first, or another in place of one, unless somebody else just has."""
        with self._making:
            if self._producer is None or self._producer is former:
                if former is not None:
                    self._failed += len(former)  # nobody is told of these
                    _undelivered.add("another producer")
                self._producer, self._former = self._make(), former
                self._made_at, self._is_doubted = self._clock(), False
                if self._listens and former is None:
                    background.start("kafka_deliveries", self._listen)
            return self._producer

    def _listen(self) -> None:
        """Hear what has become of records: until that is heard they count as being on their way."""
        while not self._is_closed:
            self._has_work.wait()
            self._has_work.clear()
            while (producer := self._producer) is not None and (self._poll_former() or len(producer)):
                producer.poll(0)
                time.sleep(LISTEN_S)

    def _hear_failure(self, error: Any, message: Any) -> None:
        # The producer may be one that tells of each.
        if error is not None:
            self._arriving -= 1
            self._hear(error, message)

    def _poll_former(self) -> int:
        """Hear of what the one before has sent, and return how much of that is still on its way."""
        if (former := self._former) is None:
            return 0
        former.poll(0)
        return len(former)

    def _hear(self, error: Any, _message: Any) -> None:
        # Called out of somebody's poll: it must not raise.
        if error is None:
            metrics.kafka_records["delivered"].inc()
        else:
            self._failed += 1
            self._is_doubted = True
            metrics.kafka_records["failed"].inc()
            _undelivered.add(error.str())
