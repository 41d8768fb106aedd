"""A terminal's screen as an animated SVG: plain text that appears when it did, and no script, font or other asset.

Where nothing moves (an old viewer, a reader who wants less motion) it shows the whole screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLUMNS = 100
CHAR, ROW, MARGIN = 8.4, 20, 18
WIDTH = round(COLUMNS * CHAR) + 2 * MARGIN
# How long the last screen stands before it begins anew.
REST_S = 8.0

_STYLE = """
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #424a53 }
.page { fill: #f6f8fa; stroke: #d1d9e0 }
.cover { fill: #f6f8fa; opacity: 0; transform-box: fill-box; transform-origin: right }
.typed { fill: #0a3069; font-weight: 600 } .behind { fill: #9a6700 } .small { font-size: 12px; fill: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #c9d1d9 } .page { fill: #0d1117; stroke: #3d444d } .cover { fill: #0d1117 }
  .typed { fill: #79c0ff } .behind { fill: #e3b341 } .small { fill: #9198a1 }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important } }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What appeared on the screen: when, in seconds, and how long it took to type.

    ``kind``: ``typed`` by somebody, perhaps in several rows, ``said`` by a command, or by what runs ``behind`` it.
    """

    text: str
    kind: str
    at_s: float
    typing_s: float = 0.0


def draw(lines: Sequence[Line], caption: str) -> str:
    """Draw a screen as long as it has to be; a line that is too wide goes on in the next row."""
    lasts_s = max(line.at_s + line.typing_s for line in lines) + REST_S
    rules: list[str] = []
    parts: list[str] = []
    y = MARGIN
    for line in lines:
        began_s = line.at_s
        for row in _rows_of(line):
            y += ROW
            takes_s = line.typing_s * len(row) / len(line.text)
            parts += _row(row, line.kind, y, name := f"r{len(rules)}")
            rules.append(_rule(name, began_s / lasts_s, takes_s / lasts_s, row, lasts_s))
            began_s += takes_s
    y += ROW + MARGIN // 2
    parts.append(f'<text class="small" x="{MARGIN}" y="{y}">{escape(caption)}</text>')
    height = y + MARGIN
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = [f'<svg {frame} role="img">', "<title>A terminal</title>", f"<style>{_STYLE}{''.join(rules)}</style>"]
    page = f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    return "\n".join([*head, page, *parts, "</svg>", ""])


def _rows_of(line: Line) -> list[str]:
    return [row[at : at + COLUMNS] for row in line.text.splitlines() for at in range(0, len(row), COLUMNS)]


def _row(text: str, kind: str, y: int, name: str) -> list[str]:
    """Draw a row, as wide as its characters in any font; over one that is typed a cover, to be drawn away."""
    indent = len(text) - len(text.lstrip())
    x, width = MARGIN + indent * CHAR, (len(text) - indent) * CHAR
    place = f'x="{x:.1f}" y="{y}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
    shown = [f'<text class="{kind} {name}" {place}>{escape(text.lstrip())}</text>']
    if kind == "typed":
        shown.append(f'<rect class="cover {name}" x="{x:.1f}" y="{y - 15}" width="{width:.1f}" height="{ROW}"/>')
    return shown


def _rule(name: str, begins: float, takes: float, text: str, lasts_s: float) -> str:
    """Have a row appear at a share of the whole, and its cover shrink in as many steps as it has characters."""
    at, end = f"{100 * begins:.2f}%", f"{100 * (begins + takes):.2f}%"
    shows = f"@keyframes {name} {{ 0% {{ opacity: 0 }} {at}, 100% {{ opacity: 1 }} }}\n"
    animation = f"{lasts_s:.1f}s infinite step-end"
    shows += f"text.{name} {{ animation: {name} {animation} }}\n"
    if takes:
        shrinks = f"{at} {{ opacity: 1; transform: none; animation-timing-function: steps({len(text.lstrip())}) }}"
        gone = f"{end}, 100% {{ opacity: 1; transform: scaleX(0) }}"
        shows += f"@keyframes c{name} {{ 0% {{ opacity: 1; transform: none }} {shrinks} {gone} }}\n"
        shows += f"rect.{name} {{ animation: c{name} {animation} }}\n"
    return shows
