"""What Schemathesis must know of the contract beside the document; loaded by it in a process of its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis

_A_YEAR = timedelta(days=365)


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Say what no schema can of a body that fits it.

    Whole numbers are without a fraction (JSON Schema calls 1.0 an integer), plans are for no later than is allowed by
    now, and pairs are without U+0000.
    """
    if not isinstance(body, dict):
        return body
    return {name: _SAYS.get(name, _whole)(value) for name, value in body.items()}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _nearer(value: Any) -> Any:
    try:
        is_far = datetime.fromisoformat(value.upper()) - datetime.now(UTC) > _A_YEAR
    except (AttributeError, TypeError, ValueError, OverflowError):
        return value
    return (datetime.now(UTC) + _A_YEAR).isoformat() if is_far else value


def _without_nul(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key.replace("\0", "0"): each.replace("\0", "0") if isinstance(each, str) else each
        for key, each in value.items()
    }


_SAYS = {"not_before": _nearer, "metadata": _without_nul}
