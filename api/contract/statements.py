"""A statement of a wallet's entries between two days. What its file looks like: ``statement_file.py``."""

import re
from datetime import date
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.contract.fields import IdIn, Incoming
from api.contract.operations import Answer, Operation, Who
from api.contract.wallets import AN_ENTRY

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _read_day(spelled: object) -> date:
    try:
        return date.fromisoformat(spelled if isinstance(spelled, str) and _DAY.fullmatch(spelled) else "")
    except ValueError:
        raise PydanticCustomError("day", "Input should be a day, such as 2026-11-23") from None


DayIn: TypeAlias = Annotated[date, BeforeValidator(_read_day), WithJsonSchema({"type": "string", "format": "date"})]


class StatementQuery(Incoming):
    """Which days, both of them included, in UTC, and how they are written."""

    from_: DayIn = Field(alias="from", description="The first day, from its beginning in UTC.")
    to: DayIn = Field(description="The last day, to its end in UTC.")
    format: Literal["json", "csv"] = "json"
    user_id: IdIn | None = Field(default=None, description="Administrators only, who have to say whose.")


OPERATIONS = {
    "statements.statement": Operation(
        Answer(
            {"type": "object", "required": ["opening_balance", "closing_balance", "transactions"]},
            example={
                "user_id": "1",
                "from": "2026-11-01",
                "to": "2026-11-30",
                "opening_balance": 10000,
                "closing_balance": 8997,
                "transactions": [AN_ENTRY],
            },
            description="A file; as CSV if that is asked for. One without its end was broken off.",
            headers=("Content-Disposition",),
            also={"text/csv": "transaction_id,transfer_id,type,transaction_type,amount,balance_after\n"},
        ),
        tag="Reads",
        who=Who.USER_OR_ADMIN,
        query=StatementQuery,
        problems=("wallet_not_found", "entries_left"),
    ),
}
