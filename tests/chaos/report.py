"""What a run tells at its end."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Told:
    """What one face has told: answers to orders and reads, jobs followed to their end, and all that came in words."""

    orders: int = 0
    reads: int = 0
    followed: int = 0
    words: Counter[int | str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return it for people."""
        words = ", ".join(f"{name} {count}" for name, count in sorted(self.words.items(), key=str))
        return f"{self.orders} orders, {self.reads} reads, {self.followed} jobs followed to their end; answers: {words}"


@dataclass
class Report:
    """What was done and what was found."""

    transport: str = "rq"
    calls: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    # Orders by the name of their method, and those of them that were refused.
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    # Transfers of bulks by how they have ended; those of other orders that were called off.
    items: Counter[str] = field(default_factory=Counter)
    canceled: int = 0
    # Times that a wallet was frozen, and how many orders and transfers have come to nothing for that.
    freezes: int = 0
    frozen: int = 0
    repeated: int = 0
    by_both: int = 0
    settled_after_s: float = 0.0
    audits: int = 0
    # Of the feed; and those that Kafka's topics had lost before they were read.
    events: int = 0
    unheard: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        faults = _told(self.faults)
        asked = ", ".join(
            f"{name} {count} ({self.refused[name]} refused)" for name, count in sorted(self.asked.items())
        )
        return [
            f"transport: {self.transport}",
            f"faults: {faults}",
            *(f"left out: {each}" for each in self.left_out),
            f"orders: {self.calls}; {self.repeated} were sent again for an answer, {self.by_both} went by both faces",
            f"of these {asked}",
            f"transfers of bulks: {_told(self.items) or 'none'}; others that were canceled: {self.canceled}",
            f"wallets were frozen {self.freezes} times, for which {self.frozen} were refused or rejected",
            *(f"by {face}: {told.line()}" for face, told in self.told.items()),
            f"all transfers final {self.settled_after_s:.1f} s after the last fault",
            f"audits finished: {self.audits}",
            f"events: {self.events}, each followed once"
            + (f"; {self.unheard} left the topics with them, unread" if self.unheard else ""),
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, wrong {len(self.wrong)}",
            *self.lost[:5],
            *self.doubled[:5],
            *self.wrong[:5],
        ]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return not (self.lost or self.doubled or self.wrong)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
