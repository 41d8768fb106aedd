"""What administrators did, as a test makes it up and reads it."""

from sqlalchemy import Engine

from models.actions import record
from models.actions.record import Action


def act(engine: Engine, *, on: str = "7", error: Exception | None = None, changed: bool = True) -> None:
    """Do nothing, as an administrator; an error's text is its code."""
    with record.acting(engine, who="admin", what="wallet.test", on=on, origin="192.0.2.1", code_of=str) as begun:
        begun.note(changed=changed)
        if error is not None:
            raise error


def acts(engine: Engine) -> list[Action]:
    """Return the newest, newest first."""
    return record.get_page(engine, size=100).actions
