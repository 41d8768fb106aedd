"""The medians as horizontal bars in an SVG: plain text, no library, readable on light and on dark pages."""

from collections.abc import Iterable, Sequence
from html import escape

from bench.report import Line, spell

WIDTH = 920
LABEL_WIDTH, VALUE_WIDTH = 390, 110
BAR, ROW, HEAD, MARGIN = 18, 28, 40, 20
TITLES = {"/s": "transfers per second (longer is better)", "ms": "milliseconds (shorter is better)"}

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.page { fill: #ffffff } .ours { fill: #0969da } .yardstick { fill: #8c959f } .span { stroke: #1f2328 }
.head { font-weight: 600 } .small { font-size: 11px; fill: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .page { fill: #0d1117 } .ours { fill: #4493f8 } .yardstick { fill: #656c76 }
  .span { stroke: #f0f6fc } .small { fill: #9198a1 }
}
"""


def draw(lines: Sequence[Line], caption: Iterable[str]) -> str:
    """Draw one group of bars for each unit; the thin line on a bar spans the rounds.

    Args:
        lines: what to draw.
        caption: small lines below: on what it was measured.
    """
    parts: list[str] = []
    y = MARGIN
    for unit in dict.fromkeys(line.figure.unit for line in lines):
        group = [line for line in lines if line.figure.unit == unit]
        parts.append(f'<text class="head" x="{MARGIN}" y="{y + 14}">{escape(TITLES.get(unit, unit))}</text>')
        y += HEAD - BAR // 2
        longest = max(line.summary.most for line in group) or 1.0
        for line in group:
            parts += _bar(line, y, (WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH) / longest)
            y += ROW
        y += MARGIN
    for each in caption:
        parts.append(f'<text class="small" x="{MARGIN}" y="{y}">{escape(each)}</text>')
        y += 16
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img"'
    head = [f"<svg {frame}>", "<title>Benchmark</title>", f"<style>{_STYLE}</style>"]
    page = f'<rect class="page" width="{WIDTH}" height="{y}" rx="6"/>'
    return "\n".join([*head, page, *parts, "</svg>", ""])


def _bar(line: Line, y: int, scale: float) -> list[str]:
    """Draw a label, a bar up to the median, a thin line from least to most, and the median in words."""
    left, middle = MARGIN + LABEL_WIDTH, y + BAR / 2
    kind = "yardstick" if line.figure.is_yardstick else "ours"
    least, median, most = (value * scale for value in (line.summary.least, line.summary.median, line.summary.most))
    words = f"{spell(line.summary.median)} {line.figure.unit}"
    return [
        f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{escape(line.figure.label)}</text>',
        f'<rect class="{kind}" x="{left}" y="{y}" width="{max(median, 1.0):.1f}" height="{BAR}" rx="2"/>',
        f'<path class="span" d="M{left + least:.1f} {middle}H{left + most:.1f}"/>',
        f'<text x="{left + most + 8:.1f}" y="{y + 13}">{escape(words)}</text>',
    ]
