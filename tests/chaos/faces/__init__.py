"""The faces of the service, to a client who takes it that any request may come to nothing, or be lost."""

from collections import Counter
from typing import Protocol

from tests.chaos.calls import Answer, Call, Job, Page

# After these a request is over, whatever came of it.
ANSWER_TIMEOUT_S = 15.0
# So many entries of a history are asked for.
PAGE_SIZE = 5
# The noes that may be right.
_OF_MONEY = frozenset({"balance_insufficient", "wallet_frozen"})
REFUSALS = {
    **dict.fromkeys(("Deposit", "Withdraw", "Transfer", "EnqueueTransfer", "Plan"), _OF_MONEY),
    "Reverse": _OF_MONEY | {"not_reversible", "reversal_exceeds"},
    "Cancel": frozenset({"not_cancelable"}),
    "Bulk": frozenset(),
}


class NoAnswerError(Exception):
    """It is not known what came of a request, or nothing did: it may be sent again as it was, and must be."""


class WrongAnswerError(Exception):
    """An answer that is never right."""


class Face(Protocol):
    """One way to ask, on behalf of one client. Everything raises NoAnswerError and WrongAnswerError."""

    name: str
    # How often which answer came, or what came in place of one.
    words: Counter[int | str]

    def move(self, call: Call) -> Answer:
        """Give an order."""

    def find_job(self, user: int, transfer_id: int) -> Job | None:
        """Ask how a transfer stands; None: there is none."""

    def follow_job(self, user: int, transfer_id: int, seconds: int) -> Job | None:
        """Wait for so long for the end of a transfer, and tell how it stands then; None: there is none."""

    def read_balance(self, user: int) -> int:
        """Ask for a balance, in cents."""

    def read_history(self, user: int) -> Page:
        """Ask for the newest entries."""

    def close(self) -> None:
        """Hang up."""
