from xml.etree import ElementTree as ET

import pytest

from bench.chart import LABEL_WIDTH, MARGIN, draw
from bench.figures import Figure, Ratio
from bench.report import Line, sum_up

SVG = "{http://www.w3.org/2000/svg}"
FAST = Figure(key="fast", label="<fast> & good", unit="/s", ratios=(Ratio("slow", 3.0),), heading="many")
SLOW = Figure(key="slow", label="slow", unit="/s", is_yardstick=True, short="slow one", heading="many")
WAIT = Figure(key="wait", label="wait", unit="ms", at_most=10.0, heading="short")
UNDRAWN = Figure(key="undrawn", label="undrawn", unit="ms")


def _lines() -> list[Line]:
    figures = [FAST, SLOW, WAIT, UNDRAWN]
    return sum_up(figures, [{"fast": 4_000.0, "slow": 1_000.0, "wait": 8.0, "undrawn": 5_000.0}])


def _drawn() -> ET.Element:
    return ET.fromstring(draw(_lines(), ["a caption"]))  # noqa: S314 - it is our own


def _bars(root: ET.Element, kind: str) -> list[float]:
    return [float(bar.get("width", "0")) for bar in root.findall(f"{SVG}rect") if bar.get("class") == kind]


def _ends(root: ET.Element, kind: str) -> list[float]:
    """How far to the right marks stand, from where bars begin."""
    paths = [path.get("d", "") for path in root.findall(f"{SVG}path") if path.get("class") == kind]
    return [float(path.removeprefix("M").split()[0]) - MARGIN - LABEL_WIDTH for path in paths]


def test_bars_are_as_long_as_their_medians_under_each_heading_on_a_scale_of_its_own() -> None:
    root = _drawn()
    (fast, wait), (slow,) = _bars(root, "ours"), _bars(root, "yardstick")
    assert fast == 4 * slow
    assert wait == pytest.approx(0.8 * fast)  # 8 of the 10 ms that it may take, the longest of its scale


def test_goals_are_marked_on_the_scale_of_the_bars() -> None:
    root = _drawn()
    (fast, _wait), (of_rate, of_wait) = _bars(root, "ours"), _ends(root, "goal")
    assert of_rate == pytest.approx(0.75 * fast)  # three times the yardstick, of which it is four times
    assert of_wait == pytest.approx(fast)


def test_what_has_no_heading_is_not_drawn() -> None:
    assert "undrawn" not in draw(_lines(), [])


def test_words_are_escaped_and_complete() -> None:
    texts = [each.text for each in _drawn().findall(f"{SVG}text")]
    assert {
        "<fast> & good",
        "slow",
        "4,000 /s",
        "8.00 ms",
        "4.00 x slow one (goal >= 3)",
        "(goal <= 10)",
        "many",
        "a caption",
    } <= set(texts)


def test_dark_pages_get_colours_of_their_own() -> None:
    assert "prefers-color-scheme: dark" in draw(_lines(), [])
