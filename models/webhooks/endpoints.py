"""Endpoints: where administrators want events sent, of which kinds, and the secrets that these are signed with.

One that was deleted is gone for everybody at once, with its secrets; its row stays until the last of its deliveries
has been cleared away (tidying.py).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Row, text

from models.database.engine import fetch_all, transaction
from models.errors import TooManyWebhooks, WebhookNotFound
from models.ledger.events import ToldEvent, number_now

# Each costs a look a few times a second, and a seat of those who send once it fails.
MOST_WEBHOOKS = 100
# In ``types``: all of them.
EVERY = "*"
SECRET_BYTES = 32
# How long the secret before signs along, so that a receiver can change over without a gap.
ROTATION_HOURS = 24

# Of pg_advisory_xact_lock: any number that nobody else uses. It makes "at most so many" true for two at a time.
_LOCK = text("SELECT pg_advisory_xact_lock(7151823004)")
_COUNT = text("SELECT count(*) FROM webhooks WHERE deleted_at IS NULL")
_ADD = text("""
INSERT INTO webhooks (id, url, types, user_id, secret, upto)
SELECT :id, :url, CAST(:types AS text[]), :user_id, :secret, last_event FROM event_head
""")
_COLUMNS = """
id, url, types, user_id, created_at, disabled_at, why, failing_since,
CASE WHEN old_secret_until > now() THEN old_secret_until END AS old_secret_until
"""
_LIST = text(f"SELECT {_COLUMNS} FROM webhooks WHERE deleted_at IS NULL ORDER BY id")  # noqa: S608 - a constant
_GET = text(f"SELECT {_COLUMNS} FROM webhooks WHERE id = :id AND deleted_at IS NULL")  # noqa: S608 - likewise
_ROTATE = text("""
UPDATE webhooks SET old_secret = secret, old_secret_until = now() + :hours * interval '1 hour', secret = :secret
WHERE id = :id AND deleted_at IS NULL RETURNING old_secret_until
""").bindparams(hours=ROTATION_HOURS)
_ENABLE = text("""
UPDATE webhooks
SET disabled_at = NULL, why = NULL, failing_since = NULL, failures = 0, quiet_until = NULL, fresh_at = NULL
WHERE id = :id AND deleted_at IS NULL RETURNING id
""")
# What waits for its next attempt need not wait for it any longer. There are no more than fan_out.MOST_PENDING.
_HURRY = text("""
UPDATE webhook_deliveries SET next_attempt_at = now()
WHERE webhook_id = :id AND status = 'pending' AND held_until IS NULL AND next_attempt_at > now()
""")
_DELETE = text("""
UPDATE webhooks SET deleted_at = now(), secret = NULL, old_secret = NULL, old_secret_until = NULL
WHERE id = :id AND deleted_at IS NULL RETURNING id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where events are sent. ``why``: it is disabled; ``old_secret_until``: two secrets sign, until then."""

    id: int
    url: str
    types: Sequence[str]
    user_id: int | None
    created_at: datetime
    disabled_at: datetime | None
    why: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None


class Wishes(Protocol):
    """What an endpoint is to be told of."""

    @property
    def types(self) -> Sequence[str]:
        """Kinds of events, or :data:`EVERY`."""

    @property
    def user_id(self) -> int | None:
        """Only those of this user's transfers."""


def add(engine: Engine, webhook_id: int, *, url: str, types: Sequence[str], user_id: int | None) -> bytes:
    """Make an endpoint, which is told of what happens from now on, and return its secret, which nobody tells again.

    Raises:
        TooManyWebhooks: there are :data:`MOST_WEBHOOKS`.
        Unavailable: the database cannot be reached, or has not done it.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    given = {"id": webhook_id, "url": url, "types": list(types), "user_id": user_id, "secret": secret}
    with transaction(engine) as connection:
        connection.execute(_LOCK)
        if connection.execute(_COUNT).scalar_one() >= MOST_WEBHOOKS:
            raise TooManyWebhooks(MOST_WEBHOOKS)
        number_now(connection)  # or it would be told of what has happened before, and has no number yet
        connection.execute(_ADD, given)
    return secret


def find_all(engine: Engine) -> list[Endpoint]:
    """Return all that there are, oldest first: :data:`MOST_WEBHOOKS`, at most.

    Raises:
        Unavailable: the database cannot be reached.
    """
    return [_endpoint(row) for row in fetch_all(engine, _LIST)]


def get(engine: Engine, webhook_id: int) -> Endpoint:
    """Return one.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached.
    """
    rows = fetch_all(engine, _GET.bindparams(id=webhook_id))
    if not rows:
        raise WebhookNotFound(webhook_id)
    return _endpoint(rows[0])


def rotate(engine: Engine, webhook_id: int) -> tuple[bytes, datetime]:
    """Give an endpoint a new secret, and return it, and until when the one before signs along.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached, or has not done it.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    with transaction(engine) as connection:
        until: datetime = _only(connection, _ROTATE, webhook_id, secret=secret)
    return secret, until


def enable(engine: Engine, webhook_id: int) -> Endpoint:
    """Send again, at once, what waits and what has happened meanwhile; one that is enabled waits for nothing either.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached, or has not done it.
    """
    with transaction(engine) as connection:
        _only(connection, _ENABLE, webhook_id)
        connection.execute(_HURRY, {"id": webhook_id})
    return get(engine, webhook_id)


def delete(engine: Engine, webhook_id: int) -> None:
    """Send nothing more there. What is being sent just now may still arrive.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached, or has not done it.
    """
    with transaction(engine) as connection:
        _only(connection, _DELETE, webhook_id)


def wants(endpoint: Wishes, event: ToldEvent) -> bool:
    """Whether an endpoint is to be told of an event."""
    if endpoint.user_id is not None and endpoint.user_id not in {event.source, event.destination}:
        return False
    return EVERY in endpoint.types or event.type in endpoint.types


def _only(connection: Connection, statement: Any, webhook_id: int, **given: object) -> Any:
    """Change one endpoint, and return the first thing that is told of it."""
    row = connection.execute(statement, {"id": webhook_id, **given}).first()
    if row is None:
        raise WebhookNotFound(webhook_id)
    return row[0]


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
