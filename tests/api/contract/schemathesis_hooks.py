"""What Schemathesis must know of the contract beside the document; loaded by it in a process of its own."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Write whole numbers without a fraction: JSON Schema calls 1.0 an integer, but the contract takes no floats."""
    if not isinstance(body, dict):
        return body
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in body.items()
    }
