"""What was found about old books, as Markdown for docs/growing-old.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bench.report import spell
from bench.year.making import Shape

GIB = 2**30
# What is to be reached of an empty database's rates, and the longest round of an audit over 100 million transfers.
RATE_GOAL, AUDIT_GOAL_HOURS = 0.8, 6.0
_DONE = {"v1": "v1 over HTTP", "v2": "v2 accepted over HTTP, settled meanwhile", "drain": "backlog of jobs, drained"}


@dataclass(slots=True, kw_only=True)
class Findings:
    """All of it. Times in seconds or, where it is said, milliseconds; sizes in bytes; rates a second."""

    shape: Shape
    made_s: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    first_vacuum: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    later_vacuum: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    worked: int = 0
    pages_ms: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    medians: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    audit: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)
    proof_s: float = 0.0

    def as_json(self) -> dict[str, object]:
        """Return all of it."""
        return asdict(self)


def markdown(found: Findings) -> str:
    """Spell the tables."""
    shape = found.shape
    each = shape.transfers
    typical, longest = 2 * shape.rounds + 1, shape.long * shape.rounds
    parts = [
        f"{each:,} transfers, {shape.entries:,} entries: {shape.wallets:,} wallets of {typical}, one of {longest:,}",
        _table(
            ("on disk", "GiB", "bytes a transfer"),
            [
                *((f"`{name}`", f"{size / GIB:.2f}", f"{size / each:.0f}") for name, size in found.sizes.items()),
                ("together", f"{sum(found.sizes.values()) / GIB:.2f}", f"{sum(found.sizes.values()) / each:.0f}"),
            ],
        ),
        _table(
            ("a second", "on these", "on an empty database", "of that", f"goal {RATE_GOAL}"),
            [
                (
                    _DONE[what],
                    spell(found.medians["old"][what]),
                    spell(found.medians["empty"][what]),
                    f"{ratio:.2f}",
                    _verdict(is_met=ratio >= RATE_GOAL),
                )
                for what, ratio in found.ratios.items()
            ],
        ),
        _table(("a page of 30, out of PostgreSQL", "ms"), [(k, f"{ms:.2f}") for k, ms in found.pages_ms.items()]),
        _table(
            ("an audit, while transfers are posted", ""),
            [
                *((name, f"{value:.1f}") for name, value in found.audit.items()),
                (
                    f"goal {AUDIT_GOAL_HOURS:.0f} hours of 100 million",
                    _verdict(is_met=found.audit["hours of 100 million"] <= AUDIT_GOAL_HOURS),
                ),
                ("all of it once, without rests, s", f"{found.proof_s:,.0f}"),
            ],
        ),
        _table(
            ("vacuum", "the first, s", "blocks", f"after {found.worked:,} more transfers, s", "blocks"),
            [
                (
                    f"`{table}`",
                    f"{seconds:.1f}",
                    f"{blocks:,}",
                    f"{found.later_vacuum[table][0]:.1f}",
                    f"{found.later_vacuum[table][1]:,}",
                )
                for table, (seconds, blocks) in found.first_vacuum.items()
            ],
        ),
        _table(
            ("backup, as many processes as cores", ""),
            [
                ("dump, s", f"{found.kept['dump_s']:,.0f}"),
                ("its size, GiB", f"{found.kept['bytes'] / GIB:.2f}"),
                ("restore, s", f"{found.kept['restore_s']:,.0f}"),
            ],
        ),
    ]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _verdict(*, is_met: bool) -> str:
    return "met" if is_met else "MISSED"
