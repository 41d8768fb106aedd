"""Whether what was asked for is what the contract has: a model of it, and the key of an order."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.calls.problems import ApiError

MAX_KEY_LENGTH = 255
# What no text has in it, and what is a header's no longer when somebody writes it on.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], given: Mapping[str, Any], *, what: str) -> M:
    """Read the fields of a model; ``what`` they were sent in is named if one is wrong.

    Raises:
        ApiError: ``bad_input``, or ``invalid_amount``.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    # An amount that is there and wrong has a code of its own, when nothing else is wrong.
    first = next((p for p in problems if not _is_amount(p)), problems[0])
    place = ": ".join([what, *([".".join(map(str, first["loc"]))[:64]] if first["loc"] else [])])
    raise ApiError("invalid_amount" if _is_amount(first) else "bad_input", f"{place}: {first['msg']}")


def check_idempotency_key(key: str) -> str:
    """Return a key that can be one.

    Raises:
        ApiError: ``bad_input``: it is empty, longer than 255 characters, or one of them is a control character.
    """
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise ApiError("bad_input", f"Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters.")
    if _CONTROLS.search(key):
        raise ApiError("bad_input", "Idempotency-Key must have no control characters.")
    return key


def _is_amount(problem: Any) -> bool:
    return bool(problem["loc"][-1:] == ("amount",) and problem["type"] not in {"missing", "extra_forbidden"})
