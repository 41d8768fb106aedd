"""One attempt at a delivery: what is sent, and what is written down of the answer."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import orjson
import structlog
from sqlalchemy import Engine

from jobs.event_json import all_as_json
from jobs.retries import RetryPolicy
from jobs.webhooks.posting import ATTEMPT_S, Answered, Poster, Undelivered
from jobs.webhooks.signing import sign
from jobs.webhooks.verdicts import judge
from models.errors import Unavailable
from models.ledger.events import find_told
from models.ledger.groups import Groups, NotTakenError
from models.webhooks import deliveries
from models.webhooks.deliveries import CLAIMED_S, Attempt, Claimed, Held, Outcome, Status
from observe import metrics

# How long it is tried to write down what became of an attempt: then the claim is nearly over, and it is made again.
TELL_S = CLAIMED_S / 3
TELL_AGAIN_S = 0.5
# Attempts that are written down at once.
MOST_TOLD = 100
# Events between two that are wanted which are read along rather than that each is looked up.
MOST_BETWEEN = 8
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"wallet-service/{metrics.VERSION}"}

_log = structlog.get_logger("webhooks")


class Letter(NamedTuple):
    """A delivery with what is sent, the same in every attempt; None: the event is no longer kept."""

    claimed: Claimed
    body: bytes | None


@dataclass(slots=True)
class _Telling:
    """An attempt that is to be written down; ``is_news``: to its endpoint, None while it is not written."""

    outcome: Outcome
    is_news: bool | None = None


class Sender:
    """Sends for one process; any number of threads may share it."""

    def __init__(
        self, engine: Engine, poster: Poster, policy: RetryPolicy, *, has_room: threading.Event | None = None
    ) -> None:
        """Send nothing yet.

        Args:
            engine: of the books.
            poster: by which it goes out.
            policy: when an attempt that failed is followed by another.
            has_room: set when attempts have succeeded, so that others need not wait for a pass of the feeder.
        """
        self._engine = engine
        self._poster = poster
        self._policy = policy
        self._has_room = has_room or threading.Event()
        self._tellings = Groups(self._tell, most=MOST_TOLD, patience_s=TELL_S / 2)

    def claim(self, held: Sequence[Held]) -> list[Letter]:
        """Claim what was taken from the queue.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        bodies = _read_bodies(self._engine, {each.event_id for each in held})
        return [
            Letter(each, bodies.get(each.event_id) if each.body is None else each.body.encode())
            for each in deliveries.claim(self._engine, held)
        ]

    def send(self, letter: Letter) -> Status:
        """Make one attempt, and write down how it went.

        Raises:
            Unavailable: PostgreSQL is away for long after it. It is made again.
        """
        claimed, body = letter
        at, began = datetime.now(UTC), time.monotonic()
        answered: Answered | None = None
        error: str | None = None
        if body is None:
            error = "the event is no longer kept"
        else:
            headers = sign(claimed.secrets, message_id=str(claimed.event_id), timestamp=int(at.timestamp()), body=body)
            try:
                answered = self._poster.post(claimed.url, _HEADERS | headers, body, within_s=ATTEMPT_S)
            except Undelivered as undelivered:
                error = str(undelivered)
            except Exception as unexpected:  # noqa: BLE001 - an attempt all the same, or it would be made for ever
                error = type(unexpected).__name__
                _log.exception("attempt fails", webhook_id=str(claimed.webhook_id), event_id=str(claimed.event_id))
        took_s = time.monotonic() - began
        verdict = judge(
            answered.status if answered else None,
            answered.retry_after if answered else None,
            attempts=claimed.attempts + 1,
            # A test is tried once; what is no longer there need not be tried again.
            policy=self._policy if body is not None and claimed.body is None else None,
            now=datetime.now(UTC),
        )
        attempt = Attempt(
            at=at,
            http_status=answered.status if answered else None,
            duration_ms=round(took_s * 1000),
            answer=_text(answered.excerpt) if answered else None,
            error=error,
        )
        self._write_down(Outcome(claimed, attempt, verdict))
        return verdict.status

    def rest(self) -> None:
        """Keep no connection that is not wanted: to be called every second or so, however much there is to do."""
        self._poster.rest()

    def _write_down(self, outcome: Outcome) -> None:
        claimed, attempt, verdict = outcome
        facts = {"webhook_id": str(claimed.webhook_id), "event_id": str(claimed.event_id)}
        metrics.webhook_attempts["delivered" if verdict.status is Status.DELIVERED else "failed"].inc()
        metrics.webhook_attempt_seconds.observe(attempt.duration_ms / 1000)
        _log.info("attempt", **facts, http_status=attempt.http_status, cause=attempt.error, status=verdict.status)
        self._tell_until_told(_Telling(outcome), until=time.monotonic() + TELL_S)

    def _tell_until_told(self, telling: _Telling, *, until: float) -> None:
        """Tell it together with what ends at the same time; if that fails, alone."""
        with suppress(Unavailable, NotTakenError):
            self._tellings.join(telling)
        while telling.is_news is None:
            if time.monotonic() > until:
                raise Unavailable
            time.sleep(TELL_AGAIN_S)
            with suppress(Unavailable):
                self._tell([telling])
        if telling.is_news:
            with suppress(Unavailable):
                self._tell_endpoint(telling.outcome)

    def _tell(self, tellings: Sequence[_Telling]) -> None:
        news = deliveries.tell(self._engine, [each.outcome for each in tellings])
        for telling, is_news in zip(tellings, news, strict=True):
            telling.is_news = is_news
        if any(each.outcome.verdict.status is Status.DELIVERED for each in tellings):
            self._has_room.set()

    def _tell_endpoint(self, outcome: Outcome) -> None:
        webhook_id = outcome.claimed.webhook_id
        if why := deliveries.tell_endpoint(self._engine, webhook_id, outcome.verdict):
            metrics.webhooks_disabled[why].inc()
            _log.error("webhook disabled", webhook_id=str(webhook_id), why=why)


def _read_bodies(engine: Engine, event_ids: Collection[int]) -> dict[int, bytes]:
    """Return what is sent of events, as far as they are kept."""
    return {
        event.event_id: orjson.dumps(told)
        for first, last in _stretches(sorted(event_ids))
        for events, _ in (find_told(engine, after=first - 1, limit=last - first + 1),)
        for event, told in zip(events, all_as_json(events), strict=True)
    }


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give the first and the last of those that lie close together."""
    begin = 0
    for index, number in enumerate(numbers):
        if index + 1 == len(numbers) or numbers[index + 1] - number > MOST_BETWEEN:
            yield numbers[begin], number
            begin = index + 1


def _text(excerpt: bytes) -> str:
    # PostgreSQL keeps no U+0000.
    return excerpt.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
