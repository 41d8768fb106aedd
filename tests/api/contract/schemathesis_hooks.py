"""What Schemathesis must know of the contract beside the document; loaded by it in a process of its own."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Write whole numbers without a fraction: JSON Schema calls 1.0 an integer, but the contract takes no floats."""
    if isinstance(body, dict):
        return {name: _whole(value) for name, value in body.items()}
    return body


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {name: _whole(each) for name, each in value.items()} if isinstance(value, dict) else value
