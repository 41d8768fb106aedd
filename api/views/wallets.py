"""One's own wallet: deposit, withdraw, balance, history."""

from flask import Blueprint, Response

from api.access.identity import require_depositor, require_user
from api.contract.schemas import (
    AmountBody,
    BalanceOut,
    MoneyOut,
    NoQuery,
    TransactionOut,
    TransactionsOut,
    TransactionsQuery,
)
from api.contract.validation import json_response, read_body, read_idempotency_key, read_query
from api.edge import tracing
from api.services import services
from api.views import reads
from api.views.reads import Snapshot
from api.views.replay import marked
from models.ledger.settlement import EntryType
from models.ledger.transfer import Kind, Order

blueprint = Blueprint("wallets", __name__)


@blueprint.post("/api/deposit/v1")
def deposit() -> Response:
    """Credit the user's wallet; open it if there is none."""
    return _move("deposit/v1", Kind.DEPOSIT)


@blueprint.post("/api/withdraw/v1")
def withdraw() -> Response:
    """Debit the user's wallet."""
    return _move("withdraw/v1", Kind.WITHDRAWAL)


@blueprint.get("/api/wallet/balance/v1")
def balance() -> Response:
    """Return the posted balance."""
    return reads.answer(NoQuery, lambda _: "balance", _load_balance)


@blueprint.get("/api/transactions/v1")
def transactions() -> Response:
    """Return a page of the history, newest first."""
    return reads.answer(TransactionsQuery, _name_of_page, _load_page)


def _load_balance(user_id: int, _: NoQuery) -> Snapshot:
    found = services().history.get_balance(user_id)
    return Snapshot(found.version, BalanceOut(balance=found.cents))


def _name_of_page(query: TransactionsQuery) -> str:
    return f"page:{query.type}:{_number_of(query)}:{query.cursor or ''}:{query.page_size}"


def _number_of(query: TransactionsQuery) -> int:
    # A cursor goes before a page: it still says which row once others have arrived.
    return 1 if query.cursor else query.page or 1


def _load_page(user_id: int, query: TransactionsQuery) -> Snapshot:
    number = _number_of(query)
    page = services().history.get_page(
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


def _move(call: str, kind: Kind) -> Response:
    user_id = require_depositor() if kind is Kind.DEPOSIT else require_user()
    read_query(NoQuery)
    body = read_body(AmountBody)
    receipt = services().orders.execute(
        Order(
            call=call,
            kind=kind,
            source=user_id if kind is Kind.WITHDRAWAL else None,
            destination=user_id if kind is Kind.DEPOSIT else None,
            amount_cents=body.amount,
            idempotency_key=read_idempotency_key(),
            trace=tracing.current().traceparent,
        )
    )
    answer = MoneyOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id)
    return marked(json_response(answer), replayed=receipt.replayed)
