"""The medians as horizontal bars in an SVG: plain text, no library, readable on light and on dark pages."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from bench.report import Line, spell, spell_goal

WIDTH = 920
LABEL_WIDTH, VALUE_WIDTH = 360, 250
BAR, ROW, HEAD, MARGIN = 18, 26, 40, 20

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.page { fill: #ffffff } .ours { fill: #0969da } .yardstick { fill: #8c959f } .span { stroke: #1f2328 }
.goal { stroke: #bc4c00; stroke-width: 2 }
.head { font-weight: 600 } .small { font-size: 11px; fill: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .page { fill: #0d1117 } .ours { fill: #4493f8 } .yardstick { fill: #656c76 }
  .span { stroke: #f0f6fc } .goal { stroke: #f0883e } .small { fill: #9198a1 }
}
"""


def draw(lines: Sequence[Line], caption: Iterable[str]) -> str:
    """Draw one group of bars for each heading; the thin line on a bar spans the rounds, the upright ones are goals.

    Args:
        lines: what to draw; those without a heading are left out.
        caption: small lines below: on what it was measured.
    """
    medians = {line.figure.key: line.summary.median for line in lines}
    parts: list[str] = []
    y = MARGIN
    for heading in dict.fromkeys(line.figure.heading for line in lines if line.figure.heading):
        group = [line for line in lines if line.figure.heading == heading]
        parts.append(f'<text class="head" x="{MARGIN}" y="{y + 14}">{escape(heading)}</text>')
        y += HEAD - BAR // 2
        longest = max(max(line.summary.most, *_goals(line, medians), 0.0) for line in group) or 1.0
        for line in group:
            scale = (WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH) / longest
            parts += [*_bar(line, y, scale), *_marks(_goals(line, medians), y, scale)]
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
    words_left = WIDTH - MARGIN - VALUE_WIDTH + 8
    return [
        f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{escape(line.figure.label)}</text>',
        f'<rect class="{kind}" x="{left}" y="{y}" width="{max(median, 1.0):.1f}" height="{BAR}" rx="2"/>',
        f'<path class="span" d="M{left + least:.1f} {middle}H{left + most:.1f}"/>',
        f'<text x="{words_left}" y="{y + 13}">{escape(f"{spell(line.summary.median)} {line.figure.unit}")}</text>',
        f'<text class="small" x="{words_left + 80}" y="{y + 13}">{escape(_beside(line))}</text>',
    ]


def _beside(line: Line) -> str:
    """Return the first ratio in words, and its goal."""
    for each in line.ratios:
        goal = "" if each.is_met is None else f" (goal {spell_goal(each.ratio)})"
        return f"{each.summary.median:.2f} x {each.to.short or each.to.label}{goal}"
    return "" if line.figure.at_most is None else f"(goal <= {line.figure.at_most:g})"


def _goals(line: Line, medians: dict[str, float]) -> Iterator[float]:
    """Give what a figure is to reach, or not to exceed, on the scale of its bar."""
    for each in line.ratios[:1]:
        yield from (bound * medians[each.to.key] for bound in (each.ratio.at_least, each.ratio.at_most) if bound)
    if line.figure.at_most is not None:
        yield line.figure.at_most


def _marks(goals: Iterable[float], y: int, scale: float) -> Iterator[str]:
    for goal in goals:
        yield f'<path class="goal" d="M{MARGIN + LABEL_WIDTH + goal * scale:.1f} {y - 2}V{y + BAR + 2}"/>'
