"""What audits of the books have found."""

from dataclasses import asdict
from typing import Any

from api.contract.fields import Instant, Outgoing
from api.contract.operations import AN_INSTANT, Answer, Operation, Who
from models.audit.record import AuditResult


class FindingOut(Outgoing):
    """An invariant that does not hold: how many break it, the ids of some of them, and more about one."""

    invariant: str
    count: int
    ids: list[str]
    detail: str


class AuditedOut(Outgoing):
    """What an audit has looked at and found; ``ok`` and ``finished_at`` are null while it is under way."""

    ok: bool | None
    started_at: Instant | None
    finished_at: Instant | None
    checked: dict[str, int]
    findings: list[FindingOut]

    @classmethod
    def of(cls, result: AuditResult) -> "AuditedOut":
        """Show a result."""
        return cls(
            ok=result.ok,
            started_at=result.started_at,
            finished_at=result.finished_at,
            checked={"wallets": result.wallets, "entries": result.entries, "transfers": result.transfers},
            findings=[FindingOut(**asdict(finding)) for finding in result.findings],
        )


class AuditOut(AuditedOut):
    """The last audit that was finished (all null if there was none), and the one under way."""

    under_way: AuditedOut | None

    @classmethod
    def of_both(cls, last: AuditResult | None, under_way: AuditResult | None) -> "AuditOut":
        """Show both."""
        nothing: dict[str, Any] = {"ok": None, "started_at": None, "finished_at": None, "checked": {}, "findings": []}
        return cls(
            **(nothing if last is None else dict(AuditedOut.of(last))),
            under_way=None if under_way is None else AuditedOut.of(under_way),
        )


_AN_AUDIT = {
    "ok": False,
    "started_at": AN_INSTANT,
    "finished_at": "2026-11-23T14:47:41.163709Z",
    "checked": {"wallets": 2, "entries": 9, "transfers": 6},
    "findings": [
        {
            "invariant": "running_balance",
            "count": 1,
            "ids": ["1-4"],
            "detail": "entry 4 of wallet 1: 10067 and -1003 is not 9065",
        }
    ],
    "under_way": None,
}

OPERATIONS = {
    "audit.audit": Operation(Answer(AuditOut, example=_AN_AUDIT), tag="Administration", who=Who.ADMIN),
}
