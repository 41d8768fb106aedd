"""What is over goes: deliveries that ended days ago, and endpoints that were deleted, with all of theirs."""

from sqlalchemy import Engine, text

from models.database.engine import transaction

_FORGET = text("""
DELETE FROM webhook_deliveries AS d USING (
    SELECT webhook_id, event_id FROM webhook_deliveries
    WHERE ended_at < now() - :days * interval '1 day' ORDER BY ended_at LIMIT :limit
) AS old WHERE d.webhook_id = old.webhook_id AND d.event_id = old.event_id AND d.ended_at IS NOT NULL
""")
_FIND_DELETED = text("SELECT id FROM webhooks WHERE deleted_at IS NOT NULL ORDER BY id LIMIT 1")
_CLEAR = text("""
DELETE FROM webhook_deliveries AS d USING (
    SELECT webhook_id, event_id FROM webhook_deliveries WHERE webhook_id = :id LIMIT :limit
) AS few WHERE d.webhook_id = few.webhook_id AND d.event_id = few.event_id
""")
_REMOVE = text("DELETE FROM webhooks WHERE id = :id AND deleted_at IS NOT NULL")


def tidy(engine: Engine, *, older_than_days: float, limit: int) -> int:
    """Delete what is over, up to so many deliveries of each kind; return how many, so that 0 means that all is tidy.

    Raises:
        Unavailable: the database cannot be reached, or has not done it.
    """
    with transaction(engine) as connection:
        gone = connection.execute(_FORGET, {"days": older_than_days, "limit": limit}).rowcount
        if (webhook_id := connection.execute(_FIND_DELETED).scalar()) is not None:
            cleared = connection.execute(_CLEAR, {"id": webhook_id, "limit": limit}).rowcount
            # Who plans deliveries holds the row of an endpoint that was there, so none follows.
            gone += cleared or connection.execute(_REMOVE, {"id": webhook_id}).rowcount
    return gone
