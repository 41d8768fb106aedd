"""Attempts that fail, as a settler books them."""

from sqlalchemy import Engine, text


def fail_once(engine: Engine, transfer_id: int) -> None:
    """Spend an attempt of a pending transfer."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transfers SET attempts = attempts + 1, last_error = 'slow' WHERE id = :id"),
            {"id": transfer_id},
        )
