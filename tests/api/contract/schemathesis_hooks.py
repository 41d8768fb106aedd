"""What Schemathesis must know of the contract beside the document; loaded by it in a process of its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis

_A_YEAR = timedelta(days=365)


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Say what no schema can of a body that fits it.

    Whole numbers are without a fraction (JSON Schema calls 1.0 an integer), and plans are for no later than is allowed
    by now.
    """
    if not isinstance(body, dict):
        return body
    return {name: _SAYS.get(name, _whole)(value) for name, value in body.items()}


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
