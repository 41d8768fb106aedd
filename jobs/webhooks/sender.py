"""One attempt at a delivery: what is sent, and what is written down of the answer."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
import structlog
from sqlalchemy import Engine

from jobs.event_json import all_as_json
from jobs.retries import RetryPolicy
from jobs.webhooks.posting import Answered, Poster, Undelivered
from jobs.webhooks.signing import sign
from jobs.webhooks.verdicts import judge
from models.errors import Unavailable
from models.ledger.events import find_told
from models.webhooks import deliveries
from models.webhooks.deliveries import CLAIMED_S, Attempt, Claimed, Held, Status, Verdict
from observe import metrics

# How long it is tried to write down what became of an attempt: then the claim is nearly over, and it is made again.
TELL_S = CLAIMED_S / 3
TELL_AGAIN_S = 0.5
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"wallet-service/{metrics.VERSION}"}

_log = structlog.get_logger("webhooks")


class Sender:
    """Sends for one process; any number of threads may share it."""

    def __init__(self, engine: Engine, poster: Poster, policy: RetryPolicy) -> None:
        """``policy``: when an attempt that failed is followed by another."""
        self._engine = engine
        self._poster = poster
        self._policy = policy

    def claim(self, held: Sequence[Held]) -> list[Claimed]:
        """Claim what was taken from the queue.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        return deliveries.claim(self._engine, held)

    def send(self, claimed: Claimed) -> Status:
        """Make one attempt, and write down how it went.

        Raises:
            Unavailable: PostgreSQL is away, before the attempt or for long after it. It is made again.
        """
        body = _body_of(self._engine, claimed)
        at, began = datetime.now(UTC), time.monotonic()
        answered: Answered | None = None
        error: str | None = None
        if body is None:
            error = "the event is no longer kept"
        else:
            headers = sign(claimed.secrets, message_id=str(claimed.event_id), timestamp=int(at.timestamp()), body=body)
            try:
                answered = self._poster.post(claimed.url, _HEADERS | headers, body)
            except Undelivered as undelivered:
                error = str(undelivered)
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
        self._tell(claimed, attempt, verdict)
        return verdict.status

    def _tell(self, claimed: Claimed, attempt: Attempt, verdict: Verdict) -> None:
        facts = {"webhook_id": str(claimed.webhook_id), "event_id": str(claimed.event_id)}
        metrics.webhook_attempts["delivered" if verdict.status is Status.DELIVERED else "failed"].inc()
        metrics.webhook_attempt_seconds.observe(attempt.duration_ms / 1000)
        _log.info("attempt", **facts, http_status=attempt.http_status, cause=attempt.error, status=verdict.status)
        deadline = time.monotonic() + TELL_S
        while True:
            try:
                disabled = deliveries.tell(self._engine, claimed, attempt, verdict)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(TELL_AGAIN_S)
            else:
                break
        if disabled:
            metrics.webhooks_disabled[disabled].inc()
            _log.error("webhook disabled", webhook_id=facts["webhook_id"], why=disabled)


def _body_of(engine: Engine, claimed: Claimed) -> bytes | None:
    """Return what is sent, the same in every attempt; None: the event is gone."""
    if claimed.body is not None:
        return claimed.body.encode()
    events, _ = find_told(engine, after=claimed.event_id - 1, limit=1)
    if not events or events[0].event_id != claimed.event_id:
        return None
    return orjson.dumps(next(all_as_json(events)))


def _text(excerpt: bytes) -> str:
    # PostgreSQL keeps no U+0000.
    return excerpt.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
