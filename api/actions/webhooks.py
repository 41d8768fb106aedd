"""What administrators can have done about webhooks."""

from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from api.calls.problems import ApiError
from api.services import Services
from jobs.event_json import trial_as_json
from jobs.webhooks import signing
from jobs.webhooks.addresses import Network
from jobs.webhooks.targets import BadTarget, check_url
from models.webhooks import endpoints, history
from models.webhooks.endpoints import Endpoint


def add(  # noqa: PLR0913 - each is a part of it
    services: Services,
    webhook_id: int,
    *,
    url: str,
    types: Sequence[str],
    user_id: int | None,
    allowed: Sequence[Network],
) -> tuple[Endpoint, str]:
    """Make an endpoint of this id, and return it with its secret, as it is shown.

    Raises:
        ApiError: ``bad_input``: nothing is sent to this URL.
        TooManyWebhooks: there are as many as there may be.
        Unavailable: the database cannot be reached.
    """
    try:
        check_url(url, allowed=allowed)
    except BadTarget as error:
        raise ApiError("bad_input", f"body: url: {error}") from None
    secret = endpoints.add(services.engine, webhook_id, url=url, types=types, user_id=user_id)
    return endpoints.get(services.engine, webhook_id), signing.show(secret)


def rotate(services: Services, webhook_id: int) -> tuple[str, datetime]:
    """Give an endpoint a new secret; return it as it is shown, and until when the one before signs along.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached.
    """
    secret, until = endpoints.rotate(services.engine, webhook_id)
    return signing.show(secret), until


def try_out(services: Services, webhook_id: int) -> int:
    """Have something sent that has not happened; return its id.

    Raises:
        WebhookNotFound: there is none of this id.
        Unavailable: the database cannot be reached.
    """
    event_id, now = services.snowflake.next_id(), datetime.now(UTC)
    body = orjson.dumps(trial_as_json(event_id, now, webhook_id)).decode()
    history.add_test(services.engine, webhook_id, event_id, body=body, created_at=now)
    return event_id


def replay(services: Services, webhook_id: int, *, event_id: int | None, since: datetime | None) -> int:
    """Have one event sent again, or all since an instant; return after which event that begins.

    Raises:
        WebhookNotFound: there is none of this id.
        EventNotFound: there is no such event for it.
        Unavailable: the database cannot be reached.
    """
    if since is not None:
        return history.replay_since(services.engine, webhook_id, since)
    if event_id is None:
        raise ValueError("neither is given")
    history.replay(services.engine, webhook_id, event_id)
    return event_id - 1
