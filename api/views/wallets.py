"""One's own wallet: deposit, withdraw, balance, history."""

from typing import Any

from flask import Blueprint

from api.contract.schemas import (
    AmountBody,
    BalanceOut,
    MoneyOut,
    NoQuery,
    TransactionOut,
    TransactionsOut,
    TransactionsQuery,
)
from api.contract.validation import read_body, read_idempotency_key, read_query
from api.direct import Answer, directly
from api.edge import tracing
from api.edge.edge import mark_replayed
from api.edge.errors import note_placed
from api.services import Services
from api.views.reads import CachedRead, Snapshot
from models.ledger.settlement import EntryType
from models.ledger.transfer import Kind, Order

blueprint = Blueprint("wallets", __name__)


@blueprint.post("/api/deposit/v1")
@directly
def deposit(services: Services, environ: dict[str, Any]) -> Answer:
    """Credit the user's wallet; open it if there is none."""
    user_id = services.identity.require_depositor(environ)
    return _move(services, environ, "deposit/v1", Kind.DEPOSIT, user_id)


@blueprint.post("/api/withdraw/v1")
@directly
def withdraw(services: Services, environ: dict[str, Any]) -> Answer:
    """Debit the user's wallet."""
    user_id = services.identity.require_user(environ)
    return _move(services, environ, "withdraw/v1", Kind.WITHDRAWAL, user_id)


@blueprint.get("/api/wallet/balance/v1")
@directly
def balance(services: Services, environ: dict[str, Any]) -> Answer:
    """Return the posted balance."""
    return _BALANCE.answer(services, environ)


@blueprint.get("/api/transactions/v1")
@directly
def transactions(services: Services, environ: dict[str, Any]) -> Answer:
    """Return a page of the history, newest first."""
    return _HISTORY.answer(services, environ)


def _load_balance(services: Services, user_id: int, _: NoQuery) -> Snapshot:
    found = services.history.get_balance(user_id)
    return Snapshot(found.version, BalanceOut(balance=found.cents))


def _name_of_page(query: TransactionsQuery) -> str:
    return f"page:{query.type}:{_number_of(query)}:{query.cursor or ''}:{query.page_size}"


def _number_of(query: TransactionsQuery) -> int:
    # A cursor goes before a page: it still says which row once others have arrived.
    return 1 if query.cursor else query.page or 1


def _load_page(services: Services, user_id: int, query: TransactionsQuery) -> Snapshot:
    number = _number_of(query)
    page = services.history.get_page(
        user_id,
        EntryType(query.type) if query.type else None,
        size=query.page_size,
        page=number,
        before_seq=int(query.cursor) if query.cursor else None,
    )
    answer = TransactionsOut(
        transactions=[TransactionOut.of(entry) for entry in page.entries],
        statement_balance=page.statement_balance_cents,
        page=None if query.cursor else number,
        page_size=query.page_size,
        has_more=page.next_seq is not None,
        next_cursor=None if page.next_seq is None else str(page.next_seq),
    )
    return Snapshot(page.version, answer)


_BALANCE = CachedRead(NoQuery, lambda _: "balance", _load_balance)
_HISTORY = CachedRead(TransactionsQuery, _name_of_page, _load_page)


def _move(services: Services, environ: dict[str, Any], call: str, kind: Kind, user_id: int) -> Answer:
    read_query(environ, NoQuery)
    body = read_body(environ, AmountBody, most_bytes=services.max_body_bytes)
    receipt = services.orders.execute(
        Order(
            call=call,
            kind=kind,
            source=user_id if kind is Kind.WITHDRAWAL else None,
            destination=user_id if kind is Kind.DEPOSIT else None,
            amount_cents=body.amount,
            idempotency_key=read_idempotency_key(environ),
            trace=tracing.of(environ).traceparent,
        )
    )
    note_placed(environ, receipt.transfer_id)
    if receipt.replayed:
        mark_replayed(environ)
    return Answer.of(MoneyOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id))
