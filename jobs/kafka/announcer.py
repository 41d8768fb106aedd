"""What is announced: every event, in the order of the feed, and dead letters once more on a topic of their own.

One process announces, the one that relays, and it reads the feed like anybody: so an event has the same id and place
here as over REST, whoever caused it, a worker, the API or an administrator. Up to where others have been told stands in
PostgreSQL. Killed before that is written down, it tells them once more.
"""

from collections.abc import Iterator, Sequence

import orjson
import structlog
from sqlalchemy import Engine, text

from jobs.event_json import all_as_json
from jobs.kafka.sending import Sender
from jobs.kafka.topics import DEAD, EVENTS
from models.database.engine import fetch_all, transaction
from models.ledger.events import ToldEvent, find_last, find_told
from models.ledger.transfer import Status
from observe import metrics

# Events announced at once, and how often in one pass of the relay. What an event costs a broker depends on how many
# come together, since each partition's share of them is one batch to it.
MOST_AT_ONCE = 2_500
MOST_TIMES = 8
# How long their arrival is waited for.
FLUSH_S = 3.0

_FAILED = f"transfer.{Status.FAILED}"
_FIND = text("SELECT upto FROM announcements WHERE topic = :topic")
_NOTE = text("""
INSERT INTO announcements (topic, upto) VALUES (:topic, :upto)
ON CONFLICT (topic) DO UPDATE SET upto = greatest(announcements.upto, excluded.upto)
""")

_log = structlog.get_logger("relay")


class Announcer:
    """Announces the events of one database."""

    def __init__(self, engine: Engine, sender: Sender) -> None:
        """Announce nothing yet."""
        self._engine = engine
        self._sender = sender

    def run_once(self) -> int:
        """Announce a bounded amount of what has not been announced, and return how much that was.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        last, upto = find_last(self._engine), self._find()
        began_at = upto
        for _ in range(MOST_TIMES):
            if upto >= last or (reached := self._announce(upto)) is None:
                break
            upto = reached
        metrics.kafka_unannounced.set(max(0, last - upto))
        return upto - began_at

    def _announce(self, after: int) -> int | None:
        """Announce what follows, and return up to where; None: it has not all arrived, and is to be told again."""
        events, reached = find_told(self._engine, after=after, limit=MOST_AT_ONCE)
        self._sender.send_all(EVENTS, _records(events))
        if dead := [event for event in events if event.type == _FAILED]:
            self._sender.send_all(DEAD, _records(dead))
        if not self._sender.flush(FLUSH_S):
            _log.warning("events not announced", after=str(after), events=len(events))
            return None
        with transaction(self._engine) as connection:
            connection.execute(_NOTE, {"topic": EVENTS, "upto": reached})
        return reached

    def _find(self) -> int:
        rows = fetch_all(self._engine, _FIND.bindparams(topic=EVENTS))
        return int(rows[0].upto) if rows else 0


def _records(events: Sequence[ToldEvent]) -> Iterator[tuple[bytes, bytes]]:
    for event, shown in zip(events, all_as_json(events), strict=True):
        yield b"%d" % event.transfer_id, orjson.dumps(shown)
