"""The consumer: takes records, settles their transfers as one batch, and only then lets the group forget them.

This rests on what the ledger keeps: posting a transfer again changes nothing. So a record may come twice, to two
workers at once, or late. Offsets are committed up to what is settled, and no further: what is after it comes again, to
whoever has the partition by then.

Kafka counts no deliveries. So that a transfer that kills its workers does not stop its partition for ever, each batch
is noted in PostgreSQL before it is tried (:mod:`models.ledger.deliveries`). Who takes a partition over at the very
offset that somebody else had noted knows that he died over it.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config import Settings
from jobs.batches import report
from jobs.kafka.clients import GROUP, make_admin, make_consumer
from jobs.kafka.complaints import Complaints
from jobs.kafka.records import transfer_id_of
from jobs.kafka.topics import WORK, place_of
from jobs.kafka.watch import TopicWatch
from jobs.killers import ALONE_AFTER_LOST, MAX_LOST, note_dead
from jobs.settler import Settled, Settler
from models.database.engine import transaction
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger import attempts, deliveries
from observe import rounds

# An idle worker waits this long for a record before it looks round: whether it is to stop.
IDLE_WAIT_S = 0.5
# A batch that takes longer than this says so to the group, which waits for minutes.
LIFE_S = 30.0
# After a fault of the database: short at first, because most are over at once.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# What a stopping worker waits for the group to be told of its last batch.
CLOSE_TIMEOUT_S = 5.0
# A worker that cannot reach the database for so long leaves its partitions to others, who may: its machine may be cut
# off from that alone, and then the group believes in it for ever. Longer than a database takes to come back, or to be
# followed by its standby: until then nobody is better off for a group that is formed anew.
OUT_AFTER_S = 10.0
# Between two times that the group is told all that is settled, and not only what has just been. Told while nobody
# coordinates it, an offset may get lost, or arrive after a later one, since librdkafka tries it again. Until the next
# record comes by, what is settled would look unread, and what has been lost behind it as if it still waited.
TELL_AGAIN_S = 5.0

_log = structlog.get_logger("worker")
_unread = Complaints("nothing to be read")


class Record(NamedTuple):
    """A record in hand; ``transfer_id``: None if it is no transfer's."""

    topic: str
    partition: int
    offset: int
    transfer_id: int | None

    @property
    def place(self) -> str:
        """Where it stands."""
        return place_of(self.topic, self.partition)


class KafkaWorker:
    """A member of the group."""

    def __init__(
        self, make: Callable[[], Consumer], engine: Engine, settler: Settler, *, batch_size: int, watch: TopicWatch
    ) -> None:
        """Make it. It joins the group when it runs, and closes the consumer at the end.

        Args:
            make: makes a consumer; another one, when the topics are others.
            engine: of the books.
            settler: settles.
            batch_size: records taken at once, at most.
            watch: tells when the topics are others.
        """
        self._make = make
        self._consumer = make()
        self._has_left = False
        self._watch = watch
        self._engine = engine
        self._settler = settler
        self._batch_size = batch_size
        self._stopping = threading.Event()
        self._holder = uuid4()
        self._pause_s = FIRST_PAUSE_S
        # What is in hand and not settled, in the order in which it came.
        self._held: list[Record] = []
        # What came while a batch was being settled, and is not in it.
        self._early: list[Record] = []
        self._polled_at = self._told_at = time.monotonic()
        # How far the partitions that are ours are settled, of which we have settled any.
        self._settled_to: dict[tuple[str, int], int] = {}
        settler.renew = self._show_life
        # The partitions of which is known whether somebody has died over their first records.
        self._known: set[str] = set()
        # How many workers have died over each of these.
        self._lost: dict[int, int] = {}
        self._is_paused = False
        # Since when all tries have failed; None: the last one did not.
        self._failing_since: float | None = None
        self._is_out = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; what is in hand is ended first. A second one ends the process."""
        self._heed_signals()
        self.subscribe()
        try:
            while not self._stopping.is_set():
                self.run_once()
        finally:
            self.leave()

    def subscribe(self) -> None:
        """Join the group, which happens in the next calls of :meth:`run_once`."""
        self._watch.has_seen_others()  # asks what they are: before the consumer is told
        self._consumer.subscribe([*WORK], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        _log.info("joins", group=GROUP)

    def run_once(self) -> int:
        """Take what there is, settle it, and return how many records that were."""
        rounds.of_work.note()
        if self._is_out:
            self._try_to_come_back()
            return 0
        if self._watch.has_seen_others():
            _log.warning("topics are others")
            self._part()
            self._join_anew()
        self._tell_again_if_due()
        if self._is_paused and not (self._held or self._early):
            self._go_on()  # what all was paused for is another's by now
        self._take(IDLE_WAIT_S if not self._held else self._pause_s)
        if not self._held or self._stopping.is_set():
            return 0
        began, tried_at, batch = time.perf_counter(), time.monotonic(), self._held
        settled = self._settle([*dict.fromkeys(each.transfer_id for each in batch if each.transfer_id)])
        self._book(settled)
        report(settled, size=len(batch), duration_s=time.perf_counter() - began)
        left = len(self._held)
        if not left:
            self._go_on()
        elif self._has_lost_database(settled.fault, tried_at):
            self._step_out()
        else:
            self._hold_on(settled.fault)
        return len(batch) - left

    def _part(self) -> None:
        """Leave the group, and what is in hand to whoever gets the partitions, or to the relay."""
        self.leave()
        self._held, self._early, self._known, self._settled_to = [], [], set(), {}
        self._is_paused, self._failing_since = False, None

    def _join_anew(self) -> None:
        """Join as somebody else: what a consumer knew, and had paused, is gone with it."""
        self._consumer, self._has_left = self._make(), False
        self.subscribe()

    def _take(self, wait_s: float) -> None:
        """Wait for a first record, and take with it those that are there. For a full batch it would wait all of it.

        While something is held the partitions are paused, but for those that were assigned since, and this is what
        keeps the group believing in us.
        """
        self._held += self._early
        self._early = []
        try:
            first = self._poll(0.0 if self._held and not self._is_paused else wait_s)
            messages = [] if first is None else [first]
            if messages and (room := self._batch_size - len(self._held) - 1) > 0 and not self._is_paused:
                messages += self._consumer.consume(room, timeout=0)
        except KafkaException as error:
            _unread.add(error)
            return
        self._held += _records_of(messages)

    def _poll(self, wait_s: float) -> Message | None:
        self._polled_at = time.monotonic()
        return self._consumer.poll(wait_s)

    def _show_life(self) -> None:
        """Let the group go on believing in us during a batch that takes long, and what it tells us be heard."""
        if time.monotonic() - self._polled_at < LIFE_S:
            return
        try:
            self._consumer.pause(self._consumer.assignment())
            self._is_paused = True
            if (message := self._poll(0.0)) is not None:
                self._early += _records_of([message])
        except KafkaException as error:
            _unread.add(error)

    def _settle(self, ids: Sequence[int]) -> Settled:
        """Settle what is in hand; what has been tried by workers that died is tried alone."""
        try:
            self._look_who_died()
            together = [each for each in ids if self._lost.get(each, 0) < ALONE_AFTER_LOST]
            settled = self._settle_noted(together)
            for each in ids:
                if each not in together and settled.fault is None:
                    _merge(settled, self._settle_noted([each]))
        except Unavailable as error:
            return Settled(undone=[*ids], fault=first_line(error))
        except (DBAPIError, PoolTimeoutError) as error:
            return Settled(undone=[*ids], fault=first_line(error))
        settled.undone = [
            each for each in ids if each not in settled.outcomes and each not in settled.spent
            and each not in settled.unknown and each not in settled.early
        ]  # fmt: skip
        return settled

    def _settle_noted(self, ids: Sequence[int]) -> Settled:
        if not ids:
            return Settled()
        wanted, taken = set(ids), dict[str, tuple[int, list[int]]]()
        for each in self._held:
            _, mine = taken.setdefault(each.place, (each.offset, []))
            if each.transfer_id in wanted:
                mine.append(each.transfer_id)
        deliveries.hold(self._engine, self._holder, taken)
        return self._settler.settle(ids)

    def _look_who_died(self) -> None:
        """Find out, once for each partition that was taken over, whose death its first records were.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        firsts: dict[str, int] = {}
        for each in self._held:
            firsts.setdefault(each.place, each.offset)
        if not (news := firsts.keys() - self._known):
            return
        held = deliveries.find_held(self._engine, sorted(news))
        suspects = {
            transfer_id
            for place, was in held.items()
            if was.first == firsts[place] and was.holder != self._holder
            for transfer_id in was.transfers
        }
        if suspects:
            with transaction(self._engine) as connection:
                lost = deliveries.add_lost(connection, sorted(suspects))
                killers = [each for each, count in lost.items() if count >= MAX_LOST]
                dead = attempts.fail_lost(connection, killers, most=MAX_LOST) if killers else {}
            note_dead(dead)
            self._lost |= lost
        self._known |= news

    def _book(self, settled: Settled) -> None:
        """Let the group forget what is settled, up to the first of each partition that is not."""
        undone = set(settled.undone) - settled.set_apart
        upto: dict[tuple[str, int], int] = {}
        rest: list[Record] = []
        stopped: set[tuple[str, int]] = set()
        for each in self._held:
            if each.transfer_id is None or each.transfer_id in settled.unknown:
                _log.error("record of no transfer", place=each.place, offset=each.offset)
            partition = (each.topic, each.partition)
            if each.transfer_id in undone:
                stopped.add(partition)
                rest.append(each)
            elif partition in stopped:
                # Settled, and behind one that is not. Its own turn to be forgotten comes with that.
                rest.append(each)
            else:
                upto[partition] = each.offset + 1
        self._held = rest
        for transfer_id in settled.outcomes:
            self._lost.pop(transfer_id, None)
        self._settled_to |= upto
        self._tell(upto)

    def _tell(self, upto: Mapping[tuple[str, int], int]) -> None:
        """Without waiting for it: should that be lost, the records come again, and are found to be settled."""
        if upto:
            offsets = [TopicPartition(*partition, offset) for partition, offset in upto.items()]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                _unread.add(error)

    def _tell_again_if_due(self) -> None:
        if (now := time.monotonic()) - self._told_at >= TELL_AGAIN_S:
            self._told_at = now
            self._tell(self._settled_to)

    def _hold_on(self, cause: str | None) -> None:
        """Keep what is in hand, take nothing more, and try again after a pause, longer each time in a row."""
        _log.warning("waiting", on="database", cause=cause, pause_s=self._pause_s)
        self._is_paused = True
        with suppress(KafkaException):  # one of them is ours no longer
            self._consumer.pause(self._consumer.assignment())
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _go_on(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._failing_since = None
        if self._is_paused:
            self._is_paused = False
            with suppress(KafkaException):
                self._consumer.resume(self._consumer.assignment())

    # --- a database that others may reach

    def _has_lost_database(self, fault: str | None, tried_at: float) -> bool:
        """Whether all tries have failed for long, and it does not answer. One that answers refuses everybody."""
        if fault is None:
            self._failing_since = None
            return False
        if self._failing_since is None:
            self._failing_since = tried_at
        return time.monotonic() - self._failing_since > OUT_AFTER_S and not self._database_answers()

    def _database_answers(self) -> bool:
        try:
            deliveries.find_now(self._engine)
        except Unavailable:
            return False
        return True

    def _step_out(self) -> None:
        _log.warning("leaves the group until the database answers", group=GROUP)
        self._is_out = True
        self._part()

    def _try_to_come_back(self) -> None:
        """Join again when the database answers."""
        self._stopping.wait(self._pause_s)
        if self._database_answers():
            self._is_out = False
            self._pause_s = FIRST_PAUSE_S
            self._join_anew()

    # --- what the group tells, in the middle of a poll

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            _log.info("partitions taken over", partitions=_names(partitions))
            # librdkafka keeps those paused that were paused when they were given up, and would read none of them.
            with suppress(KafkaException):
                consumer.resume(partitions)
        if consumer is self._consumer:
            self._known -= {place_of(each.topic, each.partition) for each in partitions}

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        _log.info("partitions given up", partitions=_names(partitions))
        self._forget(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        _log.warning("partitions lost", partitions=_names(partitions))
        self._forget(consumer, partitions)

    def _forget(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        """Leave to their next holder what was in hand of these."""
        if consumer is not self._consumer:  # one that took long to leave
            return
        gone = {place_of(each.topic, each.partition) for each in partitions}
        self._held = [each for each in self._held if each.place not in gone]
        self._early = [each for each in self._early if each.place not in gone]
        self._known -= gone
        self._settled_to = {where: to for where, to in self._settled_to.items() if place_of(*where) not in gone}

    # --- the end

    def _heed_signals(self) -> None:
        def stop(number: int, _frame: Any) -> None:
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process
            self._stopping.set()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)

    def leave(self) -> None:
        """Leave the group, which then need not wait for us; what was committed is told before."""
        if self._has_left:
            return
        self._has_left = True
        closing = threading.Thread(target=self._consumer.close, name="kafka close", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)


def _records_of(messages: Iterable[Message]) -> list[Record]:
    records = []
    for message in messages:
        if (fault := message.error()) is not None:
            _unread.add(fault)
            continue
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        records.append(Record(str(topic), partition or 0, offset or 0, transfer_id_of(message.value())))
    return records


def _merge(into: Settled, more: Settled) -> None:
    into.outcomes |= more.outcomes
    into.spent |= more.spent
    into.dead |= more.dead
    into.traces |= more.traces
    into.unknown += more.unknown
    into.early |= more.early
    into.set_apart |= more.set_apart
    into.fault = into.fault or more.fault


def _names(partitions: Iterable[TopicPartition]) -> list[str]:
    return sorted(place_of(each.topic, each.partition) for each in partitions)


def make(settings: Settings, engine: Engine, settler: Settler) -> KafkaWorker:
    """Make it on a consumer of its own."""
    watch = TopicWatch(make_admin(settings))
    make = partial(make_consumer, settings)
    return KafkaWorker(make, engine, settler, batch_size=settings.batch_size, watch=watch)
