from xml.etree import ElementTree as ET

from bench.chart import draw
from bench.figures import Figure
from bench.report import Line, sum_up

SVG = "{http://www.w3.org/2000/svg}"
FAST = Figure(key="fast", label="<fast> & good", unit="/s")
SLOW = Figure(key="slow", label="slow", unit="/s", is_yardstick=True)
WAIT = Figure(key="wait", label="wait", unit="ms")


def _lines() -> list[Line]:
    return sum_up([FAST, SLOW, WAIT], [{"fast": 4_000.0, "slow": 1_000.0, "wait": 8.0}])


def _drawn() -> ET.Element:
    return ET.fromstring(draw(_lines(), ["a caption"]))  # noqa: S314 - it is our own


def test_bars_are_as_long_as_their_medians_each_unit_on_its_own_scale() -> None:
    root = _drawn()
    bars = {bar.get("class"): float(bar.get("width", "0")) for bar in root.findall(f"{SVG}rect") if bar.get("x")}
    first, *_ = (bar for bar in root.findall(f"{SVG}rect") if bar.get("class") == "ours")
    assert float(first.get("width", "0")) == 4 * bars["yardstick"]
    assert bars["ours"] == float(first.get("width", "0"))  # the last one of ours: 8 ms, the longest of its unit


def test_words_are_escaped_and_complete() -> None:
    texts = [each.text for each in _drawn().findall(f"{SVG}text")]
    assert {"<fast> & good", "slow", "4,000 /s", "8.00 ms", "a caption"} <= set(texts)


def test_dark_pages_get_colours_of_their_own() -> None:
    assert "prefers-color-scheme: dark" in draw(_lines(), [])
