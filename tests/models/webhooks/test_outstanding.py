"""How many webhooks there are, and what they are still to be told of."""

from sqlalchemy import Engine, text

from models import vitals
from models.ledger import events
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from models.vitals import WebhookBacklog
from models.webhooks import endpoints
from models.webhooks.fan_out import plan
from tests.models.ledger.ordering import deposit


def test_without_webhooks_there_is_nothing(engine: Engine) -> None:
    assert vitals.find_webhook_backlog(engine) == WebhookBacklog(enabled=0, disabled=0, pending=0, oldest_s=0.0)


def test_what_is_planned_and_what_is_not_yet_has_its_age(engine: Engine, snowflake: Snowflake) -> None:
    first, second, third = (snowflake.next_id() for _ in range(3))
    for webhook_id in (first, second, third):
        endpoints.add(engine, webhook_id, url="https://a.test/", types=["*"], user_id=None)
    orders = Orders(engine, snowflake)
    for _ in range(2):
        orders.execute(deposit(1, 1))
    events.number(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE event_batches SET created_at = now() - interval '600 seconds'"))
        connection.execute(text("UPDATE webhooks SET disabled_at = now(), why = 'gone' WHERE id = :id"), {"id": third})
    endpoints.delete(engine, second)
    behind = vitals.find_webhook_backlog(engine)
    assert (behind.enabled, behind.disabled, behind.pending) == (1, 1, 0)
    assert 600 <= behind.oldest_s < 700
    plan(engine)
    planned = vitals.find_webhook_backlog(engine)
    assert (planned.enabled, planned.disabled, planned.pending) == (1, 1, 2)
    assert 600 <= planned.oldest_s < 700
    with engine.begin() as connection:
        connection.execute(text("UPDATE webhook_deliveries SET status = 'delivered', ended_at = now()"))
    assert vitals.find_webhook_backlog(engine) == WebhookBacklog(enabled=1, disabled=1, pending=0, oldest_s=0.0)
