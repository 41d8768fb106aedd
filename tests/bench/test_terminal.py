import re
from xml.etree import ElementTree as ET

from bench.terminal import COLUMNS, Line, draw

SVG = "{http://www.w3.org/2000/svg}"
LINES = [
    Line("$ say <this> \\\n    & that", "typed", 0.0, typing_s=2.0),
    Line("x" * (COLUMNS + 1), "said", 2.5),
    Line("nobody asked", "behind", 3.0),
]


def _drawn() -> ET.Element:
    return ET.fromstring(draw(LINES, "a caption"))  # noqa: S314 - it is our own


def test_all_that_was_shown_is_there_in_its_order_and_wide_lines_go_on_below() -> None:
    texts = [each.text for each in _drawn().findall(f"{SVG}text")]
    assert texts == ["$ say <this> \\", "& that", "x" * COLUMNS, "x", "nobody asked", "a caption"]


def test_only_what_was_typed_is_uncovered_bit_by_bit() -> None:
    covers = [each for each in _drawn().findall(f"{SVG}rect") if "cover" in each.get("class", "")]
    assert len(covers) == 2


def test_it_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    drawn = draw(LINES, "a caption")
    assert re.findall(r"https?://[^\"]*", drawn) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|url\(|href|@import|@font-face", drawn)


def test_dark_pages_and_readers_who_want_less_motion_are_thought_of() -> None:
    assert {"prefers-color-scheme: dark", "prefers-reduced-motion: reduce"} <= set(
        re.findall(r"@media \(([^)]*)\)", draw(LINES, ""))
    )
