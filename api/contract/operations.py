"""What a row of the contract says of a route, and what the rows' examples share."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel

from api.contract.fields import NoQuery

# For examples.
AN_ID = "118361825078153216"
AN_INSTANT = "2026-11-23T14:47:38.155688Z"


class Who(Enum):
    """Who may call: any one of these security schemes, between blanks."""

    # Words and not tuples: of an empty tuple Python 3.11.2's Enum makes an object().
    ANYONE = ""
    USER = "user"
    ADMIN = "admin"
    USER_OR_ADMIN = "user admin"

    @property
    def schemes(self) -> list[str]:
        """The names of the security schemes."""
        return self.value.split()


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or what else is no problem (RFC 9457).

    ``schema`` is a model, or a JSON schema where there is none; ``headers`` and ``links`` are names of ``HEADERS`` in
    ``api/contract/components.py`` and of ``LINKS`` in ``api/contract/routes.py``.
    """

    schema: type[BaseModel] | dict[str, Any]
    _: KW_ONLY
    example: Any
    status: int = 200
    description: str = ""
    media_type: str = "application/json"
    # Texts that it may be instead, by their media types: an example of each.
    also: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    answer: Answer
    _: KW_ONLY
    tag: str
    # Other answers that are no problems.
    others: tuple[Answer, ...] = ()
    who: Who = Who.USER
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    body_example: Any = None
    is_body_required: bool = True
    # It takes an Idempotency-Key, tells a replay, and its outcome can be unknown.
    moves_money: bool = False
    # Codes of its own, beside those that follow from the rest.
    problems: tuple[str, ...] = ()

    @property
    def answers(self) -> dict[int, Answer]:
        """What it answers that is no problem, by the status."""
        return {each.status: each for each in (self.answer, *self.others)}
