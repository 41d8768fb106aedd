"""From the values of all rounds to what is reported: medians, spans, ratios within rounds, and a table."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from bench.figures import Figure, Ratio, Values


@dataclass(frozen=True, slots=True)
class Summary:
    """A median over the rounds, and how far they lay apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Sum up at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class RatioLine:
    """A figure's ratio to another one: computed in each round, then the median taken."""

    ratio: Ratio
    to: Figure
    summary: Summary

    @property
    def is_met(self) -> bool | None:
        """Whether the median is what was hoped for; None where nothing was."""
        ratio, median = self.ratio, self.summary.median
        if ratio.at_least is None and ratio.at_most is None:
            return None
        return (ratio.at_least is None or median >= ratio.at_least) and (
            ratio.at_most is None or median <= ratio.at_most
        )


@dataclass(frozen=True, slots=True)
class Line:
    """All there is to say of one figure."""

    figure: Figure
    summary: Summary
    ratios: tuple[RatioLine, ...]

    @property
    def is_met(self) -> bool | None:
        """Whether the median is low enough; None where nothing is demanded of it."""
        return None if self.figure.at_most is None else self.summary.median <= self.figure.at_most


def sum_up(figures: Sequence[Figure], rounds: Sequence[Values]) -> list[Line]:
    """Return a line for each figure that was found in a round. A ratio to something that was not is left out."""
    named = {figure.key: figure for figure in figures if any(figure.key in values for values in rounds)}
    return [
        Line(
            figure,
            Summary.of([values[figure.key] for values in rounds if figure.key in values]),
            tuple(
                RatioLine(ratio, named[ratio.to], _ratio(figure.key, ratio.to, rounds))
                for ratio in figure.ratios
                if ratio.to in named and any({figure.key, ratio.to} <= values.keys() for values in rounds)
            ),
        )
        for figure in named.values()
    ]


def table(lines: Iterable[Line]) -> str:
    """Return the lines as text in columns; a second ratio of a figure stands in a line of its own."""
    rows = [("measure", "median", "min..max", "ratio", "goal"), *(row for line in lines for row in _rows(line))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["  ".join(_align(row, widths)).rstrip() for row in rows]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def as_json(lines: Iterable[Line]) -> list[dict[str, object]]:
    """Return the same for bench.json."""
    return [
        {
            "key": line.figure.key,
            "label": line.figure.label,
            "unit": line.figure.unit,
            **asdict(line.summary),
            "at_most": line.figure.at_most,
            "is_met": line.is_met,
            "ratios": [{**asdict(each.ratio), **asdict(each.summary), "is_met": each.is_met} for each in line.ratios],
        }
        for line in lines
    ]


def spell(value: float) -> str:
    """Spell a rate or a time with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def spell_goal(ratio: Ratio) -> str:
    """Spell what a ratio is to be."""
    bounds = ((">=", ratio.at_least), ("<=", ratio.at_most))
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _ratio(key: str, to: str, rounds: Sequence[Values]) -> Summary:
    return Summary.of([values[key] / values[to] for values in rounds if {key, to} <= values.keys()])


def _rows(line: Line) -> Iterator[tuple[str, str, str, str, str]]:
    figure, summary = line.figure, line.summary
    span = f"{spell(summary.least)}..{spell(summary.most)}"
    goal = "" if figure.at_most is None else f"<= {figure.at_most:g} {figure.unit}: {_verdict(line.is_met)}"
    ratios = [
        (
            f"{each.summary.median:.2f} x {each.to.key} ({each.summary.least:.2f}..{each.summary.most:.2f})",
            "" if each.is_met is None else f"{spell_goal(each.ratio)}: {_verdict(each.is_met)}",
        )
        for each in line.ratios
    ] or [("", goal)]
    label = f"  {figure.label}" if figure.is_yardstick else figure.label
    yield label, f"{spell(summary.median)} {figure.unit}", span, *ratios[0]
    for ratio in ratios[1:]:
        yield "", "", "", *ratio


def _verdict(is_met: bool | None) -> str:  # noqa: FBT001 - there is nothing else to say of it
    return "met" if is_met else "MISSED"


def _align(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if column in {1, 2} else cell.ljust(width)
