"""Webhooks, for administrators."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from api.access.administrators import acting, require_admin
from api.actions import webhooks as actions
from api.contract.validation import answers, json_response, read_body, read_query, refuse_query
from api.contract.webhooks import (
    AddedWebhookOut,
    DeletedWebhookOut,
    DeliveriesOut,
    DeliveriesQuery,
    DeliveryOut,
    ReplayBody,
    ReplayedOut,
    RotatedOut,
    TestedOut,
    WebhookBody,
    WebhookOut,
    WebhooksOut,
)
from api.running import services
from api.settings import current_settings
from api.views.jobs import read_id
from models.errors import WebhookNotFound
from models.ledger.transfer import MAX_ID
from models.webhooks import endpoints, history
from models.webhooks.deliveries import Status

blueprint = Blueprint("webhooks", __name__)


@blueprint.post("/api/webhooks/v1")
def add_webhook() -> Response:
    """Have events sent to a URL, and return the secret that they are signed with, which nobody tells again."""
    webhook_id = services().snowflake.next_id()
    with acting("webhook.add", on=str(webhook_id)):
        refuse_query(request.environ)
        body = read_body(request.environ, WebhookBody, most_bytes=services().max_body_bytes)
        endpoint, secret = actions.add(
            services(),
            webhook_id,
            url=body.url,
            types=body.distinct_types,
            user_id=body.user_id,
            allowed=current_settings().webhook_allow_networks,
        )
        return json_response(AddedWebhookOut.with_secret(endpoint, secret), HTTPStatus.CREATED)


@blueprint.get("/api/webhooks/v1")
@answers
def webhooks() -> WebhooksOut:
    """Return all webhooks, with whether they are enabled, and why not."""
    require_admin()
    refuse_query(request.environ)
    return WebhooksOut(webhooks=[WebhookOut.of(each) for each in endpoints.find_all(services().engine)])


@blueprint.delete("/api/webhooks/v1/<webhook_id>")
@answers
def delete_webhook(webhook_id: str) -> DeletedWebhookOut:
    """Send nothing more there."""
    with acting("webhook.delete", on=webhook_id):
        refuse_query(request.environ)
        endpoints.delete(services().engine, _read_id(webhook_id))
        return DeletedWebhookOut()


@blueprint.post("/api/webhooks/v1/<webhook_id>/rotate")
@answers
def rotate_webhook(webhook_id: str) -> RotatedOut:
    """Sign with a new secret; the one before signs along for 24 hours."""
    with acting("webhook.rotate", on=webhook_id):
        refuse_query(request.environ)
        number = _read_id(webhook_id)
        secret, until = actions.rotate(services(), number)
        return RotatedOut(webhook_id=number, secret=secret, old_secret_until=until)


@blueprint.post("/api/webhooks/v1/<webhook_id>/test")
@answers
def try_webhook(webhook_id: str) -> TestedOut:
    """Send a `webhook.test`, once, also if it is disabled."""
    with acting("webhook.test", on=webhook_id):
        refuse_query(request.environ)
        return TestedOut(event_id=actions.try_out(services(), _read_id(webhook_id)))


@blueprint.post("/api/webhooks/v1/<webhook_id>/enable")
@answers
def enable_webhook(webhook_id: str) -> WebhookOut:
    """Send again, at once: what waits, and what has happened since it was disabled."""
    with acting("webhook.enable", on=webhook_id):
        refuse_query(request.environ)
        return WebhookOut.of(endpoints.enable(services().engine, _read_id(webhook_id)))


@blueprint.get("/api/webhooks/v1/<webhook_id>/deliveries")
@answers
def webhook_deliveries(webhook_id: str) -> DeliveriesOut:
    """Return a page of what was sent there, or is to be, newest first, with how its attempts went."""
    require_admin()
    query = read_query(request.environ, DeliveriesQuery)
    page = history.find_page(
        services().engine,
        _read_id(webhook_id),
        status=Status(query.status) if query.status else None,
        before=query.cursor or MAX_ID,
        limit=query.page_size,
    )
    return DeliveriesOut(
        deliveries=[DeliveryOut.of(each) for each in page.deliveries],
        page_size=query.page_size,
        has_more=page.next_before is not None,
        next_cursor=page.next_before,
    )


@blueprint.post("/api/webhooks/v1/<webhook_id>/replay")
@answers
def replay_webhook(webhook_id: str) -> ReplayedOut:
    """Send again one event, or all since an instant, as far as they are kept."""
    with acting("webhook.replay", on=webhook_id):
        refuse_query(request.environ)
        body = read_body(request.environ, ReplayBody, most_bytes=services().max_body_bytes)
        after = actions.replay(services(), _read_id(webhook_id), event_id=body.event_id, since=body.since)
        return ReplayedOut(after=after)


def _read_id(text: str) -> int:
    return read_id(text, WebhookNotFound(0))
