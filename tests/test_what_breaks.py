"""docs/what-breaks.md says which tests show what it claims; they have to be there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "what-breaks.md"


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+)`", PAGE.read_text())
    assert [each for each in named if not (TESTS / f"{each}.py").is_file()] == []
    assert len(named) > 30


def test_every_row_says_what_is_seen_and_how_it_is_known() -> None:
    faults = [row for row in rows()[1:] if not row[0].startswith("**")]
    assert [row[0] for row in faults if len(row) != 5 or not all(row)] == []
    shown = re.compile(r"`[\w/]*test_|by hand|review")
    assert [row[0] for row in faults if not shown.search(row[4])] == []
