"""What clients ask for, and what they keep of the answers, whichever face gave them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class Answer(NamedTuple):
    """A definite answer to an order; ``transfer_id`` is 0 where it was refused."""

    face: str
    transfer_id: int = 0
    # In cents, of whoever gave the order, just after it; None where it was only accepted.
    balance: int | None = None
    # The service's word for its no.
    refusal: str = ""


class Job(NamedTuple):
    """How a transfer stands; ``ended_at`` as the service spells it, the amount in cents."""

    status: str
    last_error: str = ""
    reason: str = ""
    amount: int = 0
    ended_at: str = ""

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


class Item(NamedTuple):
    """One transfer of a bulk: to whom, how many cents, and what its sender calls it, which no other is called."""

    destination: int
    amount: int
    reference: str


class SentItem(NamedTuple):
    """What became of one."""

    item: Item
    status: str
    reason: str


class Bulk(NamedTuple):
    """How a bulk stands: what it says of itself, by the names of the contract, and its transfers, as listed."""

    told: dict[str, int]
    items: tuple[SentItem, ...]


@dataclass(slots=True)
class Call:
    """One order, by the name of its method, and all that was told of it.

    ``amount``: cents; of a bulk their sum, and 0 for all that is left to be given back.
    """

    method: str
    user: int
    amount: int
    destination: int | None
    key: str
    # The transfer that it gives back, or calls off.
    of: int = 0
    not_before: datetime | None = None
    items: tuple[Item, ...] = ()
    is_atomic: bool = False
    # By this process's monotonic clock: just before it was sent first, and just after its first answer.
    begun: float = 0.0
    ended: float = 0.0
    # Each face that it was sent by, as often as that.
    tries: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    followed: Followed | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.key}"

    @property
    def transfer_id(self) -> int:
        """What it became by its first answer, the bulk's id if it is one, or what it called off; 0: nothing."""
        return self.answers[0].transfer_id if self.answers else 0

    @property
    def refusal(self) -> str:
        """The service's word for its first answer, if that was a no."""
        return self.answers[0].refusal if self.answers else ""

    @property
    def debited(self) -> int | None:
        """Whose money it would take."""
        return None if self.method == "Deposit" else self.user

    @property
    def credited(self) -> set[int]:
        """Who would get any."""
        if self.method == "Bulk":
            return {item.destination for item in self.items}
        if self.method == "Deposit":
            return {self.user}
        return set() if self.destination is None else {self.destination}
