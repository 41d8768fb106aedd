"""Limits are constants in the code, and the reference has their values."""

import importlib
import re

import pytest

from tests.docs.pages import REFERENCE, code, rows
from tests.project import ROOT

LIMITS = [
    pytest.param(code(row["held by"]), float(code(row["limit"]).replace(",", "")), id=code(row["held by"]))
    for row in rows((REFERENCE / "limits.md").read_text())
]


@pytest.mark.parametrize(("held_by", "limit"), LIMITS)
def test_a_limit_is_what_the_reference_says(held_by: str, limit: float) -> None:
    assert find(held_by) == limit


def find(held_by: str) -> float:
    """Return a constant by its dotted name, or by that of a file and its line there."""
    path, _, name = held_by.partition(": ")
    if name:
        found = re.findall(rf"^{name} = (\d+)$", (ROOT / path).read_text(), re.MULTILINE)
        return float(found[0])
    module, attributes = _import(held_by.split("."))
    value: object = module
    for attribute in attributes:
        value = getattr(value, attribute)
    assert isinstance(value, int | float)
    return float(value)


def _import(names: list[str]) -> tuple[object, list[str]]:
    """Import as much of a dotted name as is a module."""
    for end in range(len(names) - 1, 0, -1):
        try:
            return importlib.import_module(".".join(names[:end])), names[end:]
        except ModuleNotFoundError:
            continue
    raise AssertionError(f"{'.'.join(names)} is not there")
