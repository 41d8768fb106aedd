"""What administrators did."""

from pydantic import ConfigDict, Field

from api.contract.fields import IdOut, Instant, Outgoing, PageQuery
from api.contract.operations import AN_ID, AN_INSTANT, Answer, Operation, Who
from models.actions.record import Action


class ActionOut(Outgoing):
    """What an administrator did: when, who, what, on what, from which address, and what came of it."""

    model_config = ConfigDict(serialize_by_alias=True)

    at: Instant
    who: str
    what: str
    on: str
    origin: str = Field(serialization_alias="from")
    outcome: str = Field(
        description="`done`, `unchanged`, `begun` (no end of it is known), or the code of the problem."
    )

    @classmethod
    def of(cls, action: Action) -> "ActionOut":
        """Show an act."""
        return cls(
            at=action.at,
            who=action.who,
            what=action.what,
            on=action.subject,
            origin=action.origin,
            outcome=action.outcome,
        )


class ActionsOut(Outgoing):
    """A page of what administrators did, newest first."""

    actions: list[ActionOut]
    page_size: int
    has_more: bool
    next_cursor: IdOut | None


_AN_ACT = {
    "at": AN_INSTANT,
    "who": "admin",
    "what": "dead_letter.requeue",
    "on": AN_ID,
    "from": "203.0.113.7",
    "outcome": "done",
}
_A_PAGE = {"actions": [_AN_ACT], "page_size": 30, "has_more": False, "next_cursor": None}

OPERATIONS = {
    "actions.actions": Operation(
        Answer(ActionsOut, example=_A_PAGE, links=("next_actions",)),
        tag="Administration",
        who=Who.ADMIN,
        query=PageQuery,
    ),
}
