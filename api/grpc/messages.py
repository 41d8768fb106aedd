"""The contract's messages, out of what the inside answers. What is not there is 0 or ""."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from jobs.event_json import rfc3339
from models.ledger.transfer import Details, Transfer
from wallet.v1.wallet_pb2 import Job, Transaction, TransactionPage


def job_of(transfer: Transfer) -> Job:
    """Show a transfer."""
    return Job(
        job_id=transfer.id,
        status=transfer.status.value,
        source_user_id=transfer.source or 0,
        destination_user_id=transfer.destination or 0,
        amount=transfer.amount_cents,
        reason=transfer.reason or "",
        attempts=transfer.attempts,
        last_error=transfer.last_error or "",
        created_at=_instant(transfer.created_at),
        completed_at=_instant(transfer.completed_at),
        next_attempt_at=_instant(transfer.next_attempt_at),
        kind=transfer.kind.value,
        **said_of(transfer.details),
        not_before=_instant(transfer.not_before),
        reverses=transfer.reverses or 0,
        reversed_amount=transfer.reversed_cents or 0,
        bulk_id=transfer.bulk_id or 0,
    )


def said_of(details: Details) -> dict[str, Any]:
    """Show what a caller said of a transfer."""
    return {
        "description": details.description or "",
        "reference": details.reference or "",
        "metadata": details.metadata or {},
    }


def page_of(payload: bytes) -> TransactionPage:
    """Show a page of the history, from REST's JSON of it: both faces share one entry of the cache."""
    page = orjson.loads(payload)
    return TransactionPage(
        transactions=[_transaction(each) for each in page["transactions"]],
        next_cursor=page["next_cursor"] or "",
        has_more=page["has_more"],
        statement_balance=page["statement_balance"],
    )


def _transaction(entry: Mapping[str, Any]) -> Transaction:
    return Transaction(
        transaction_id=entry["transaction_id"],
        transfer_id=int(entry["transfer_id"]),
        type=entry["type"],
        amount=entry["amount"],
        balance_after=entry["balance_after"],
        counterparty_user_id=int(entry["counterparty_user_id"] or 0),
        created_at=entry["created_at"],
        desc=entry["desc"],
        reference=entry.get("reference") or "",  # a page that an older version has cached has none
    )


def _instant(instant: datetime | None) -> str:
    return "" if instant is None else rfc3339(instant)
