"""What clients ask for, and what they keep of the answers, whichever face gave them."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Answer(NamedTuple):
    """A definite answer to an order; ``transfer_id`` is 0 where it was refused."""

    face: str
    transfer_id: int = 0
    # In cents, of whoever gave the order, just after it; None where it was only accepted.
    balance: int | None = None


class Job(NamedTuple):
    """How a transfer stands."""

    status: str
    last_error: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it by itself."""
        return self.status != "pending"


class Followed(NamedTuple):
    """Where a job was followed to its end, and which; None: there was no such job."""

    face: str
    job: Job | None


class Page(NamedTuple):
    """The beginning of a history: the balance beside it, and of each entry its transfer and the balance after it."""

    balance: int
    entries: tuple[tuple[int, int], ...]


class Read(NamedTuple):
    """What somebody was told of his wallet; ``entries`` only where he asked for his history."""

    face: str
    user: int
    page: Page


@dataclass(slots=True)
class Call:
    """One order, by the name of its method, and all that was told of it."""

    method: str
    user: int
    amount: int
    destination: int | None
    key: str
    # Each face that it was sent by, as often as that.
    tries: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    followed: Followed | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.key}"

    @property
    def transfer_id(self) -> int:
        """What it became by its first answer; 0: nothing."""
        return self.answers[0].transfer_id if self.answers else 0
