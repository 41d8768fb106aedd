"""The record of what administrators did: who, what, on what, when, from where, and with which outcome.

An act is written down before it is begun, and what came of it in a row of its own afterwards. So what cannot be
written down is not done, and what was done is there, whoever dies meanwhile: an act without an outcome was begun, and
nothing else is known of it. Both tables only grow, and the oldest rows are the owner's trigger's to forget
(migration 0015).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine, Row, func, insert, select

from models.database.engine import fetch_all, transaction
from models.database.faults import first_line
from models.errors import Unavailable
from models.ledger.transfer import MAX_ID
from models.schema.tables import action_outcomes, actions
from observe import metrics

# Outcomes beside the codes of problems.
DONE, UNCHANGED, BEGUN = "done", "unchanged", "begun"
# What is done to all that there are of a kind is done to this.
ALL = "all"
# Characters of each text. Some are what somebody has written into a URL.
MAX_TEXT = 200
# For how many days an act is kept; a trigger of the owner's sees to that.
KEPT_DAYS = 400
_UNKNOWN = "unknown"

_log = structlog.get_logger("actions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An act; ``outcome``: :data:`DONE`, :data:`UNCHANGED`, a problem's code, or :data:`BEGUN`: no end is known."""

    id: int
    at: datetime
    who: str
    what: str
    subject: str
    origin: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionPage:
    """Some acts, newest first; ``next_id``: the page after it has lower ids; None when there is none."""

    actions: list[Action]
    next_id: int | None


@dataclass(slots=True)
class Act:
    """An act that is being done; ``outcome`` is final once it has ended."""

    outcome: str = DONE

    def note(self, *, changed: bool) -> None:
        """Note whether it has changed anything."""
        self.outcome = DONE if changed else UNCHANGED


@contextmanager
def acting(  # noqa: PLR0913 - the six things that are recorded, two of them known here
    engine: Engine, *, who: str, what: str, on: str, origin: str, code_of: Callable[[Exception], str]
) -> Iterator[Act]:
    """Do something within this, and have it recorded with its outcome.

    Args:
        engine: of the database.
        who: does it.
        what: is done: one of a few words with dots, such as ``dead_letter.requeue``.
        on: what it is done to.
        origin: the address that it comes from.
        code_of: says what an error comes to; the error itself goes its way.

    Raises:
        Unavailable: it cannot be written down, and was not begun.
    """
    new = insert(actions).values(who=_shown(who), what=what, subject=_shown(on), origin=_shown(origin))
    with transaction(engine) as connection:
        number: int = connection.execute(new.returning(actions.c.id)).scalar_one()
    act = Act()
    try:
        yield act
    except Exception as error:
        act.outcome = code_of(error)
        _end(engine, number, what, act.outcome)
        raise
    # Whoever is cancelled from outside leaves no outcome: none is known.
    _end(engine, number, what, act.outcome)


def get_page(engine: Engine, *, size: int, before_id: int = MAX_ID) -> ActionPage:
    """Return a page of acts, newest first.

    Raises:
        Unavailable: the database cannot be reached.
    """
    outcome = func.coalesce(action_outcomes.c.outcome, BEGUN).label("outcome")
    joined = actions.outerjoin(action_outcomes, action_outcomes.c.action_id == actions.c.id)
    query = select(actions, outcome).select_from(joined).where(actions.c.id < before_id)
    rows = fetch_all(engine, query.order_by(actions.c.id.desc()).limit(size + 1))
    found = [_action(row) for row in rows[:size]]
    return ActionPage(actions=found, next_id=found[-1].id if len(rows) > size else None)


def _end(engine: Engine, number: int, what: str, outcome: str) -> None:
    """Write down what came of an act. It is what it is by now, so a failure is logged, and no more."""
    metrics.count_action(what, outcome)
    try:
        with transaction(engine) as connection:
            connection.execute(insert(action_outcomes).values(action_id=number, outcome=outcome))
    except Unavailable as error:
        _log.error("outcome not recorded", action_id=str(number), what=what, outcome=outcome, cause=first_line(error))


def _shown(text: str) -> str:
    """Cut a text to what is kept of it, without what no page and no terminal shows."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:MAX_TEXT]) or _UNKNOWN


def _action(row: Row[Any]) -> Action:
    return Action(
        id=row.id,
        at=row.at,
        who=row.who,
        what=row.what,
        subject=row.subject,
        origin=row.origin,
        outcome=row.outcome,
    )
