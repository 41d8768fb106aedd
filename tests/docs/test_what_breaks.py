"""What breaks is told with how it is known: by a test that is there, by hand, or by a review."""

import re

from tests.docs.pages import DOCS, codes, rows
from tests.project import ROOT

FAULTS = [row for row in rows((DOCS / "what-breaks.md").read_text()) if not row["what happens"].startswith("**")]
_TEST = re.compile(r"(\w+/)*test_\w+")


def test_every_test_that_is_named_is_there() -> None:
    named = [each for row in FAULTS for each in codes(row["shown by"]) if _TEST.fullmatch(each)]
    assert [each for each in named if len(list((ROOT / "tests").rglob(f"{each}.py"))) != 1] == []
    assert len(named) > 30


def test_every_row_is_complete_and_says_how_it_is_known() -> None:
    known = re.compile(r"`[\w/]*test_|by hand|review")
    assert [row for row in FAULTS if not all(row.values()) or not known.search(row["shown by"])] == []
