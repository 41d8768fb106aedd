"""What Schemathesis must know of the contract beside the document; loaded by it in a process of its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis

from api.waiting import MAX_WAIT_S

_A_YEAR = timedelta(days=365)
# In seconds. What may be waited for longer is: nobody works here, and each such case would take as long as it says.
_LONG_ENOUGH = 0.5


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Say what no schema can of a body that fits it.

    Whole numbers are without a fraction (JSON Schema calls 1.0 an integer), and plans are for no later than is allowed
    by now.
    """
    if not isinstance(body, dict):
        return body
    return {name: _SAYS.get(name, _whole)(value) for name, value in body.items()}


@schemathesis.hook
def map_query(_context: schemathesis.HookContext, query: Any) -> Any:
    """Wait for less long than one may; what is no wait at all stays as it is, to be refused."""
    if not isinstance(query, dict) or not isinstance(wait := query.get("wait"), int | float):
        return query
    return query | {"wait": _LONG_ENOUGH} if _LONG_ENOUGH < wait <= MAX_WAIT_S else query


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {name: _whole(each) for name, each in value.items()} if isinstance(value, dict) else value


def _nearer(value: Any) -> Any:
    try:
        is_far = datetime.fromisoformat(value.upper()) - datetime.now(UTC) > _A_YEAR
    except (AttributeError, TypeError, ValueError, OverflowError):
        return value
    return (datetime.now(UTC) + _A_YEAR).isoformat() if is_far else value


_SAYS = {"not_before": _nearer}
