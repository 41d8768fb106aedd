"""One's own wallet: deposit, withdraw, balance, history."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import Blueprint

from api.actions import orders
from api.actions.orders import Terms
from api.actions.reads import BALANCE, HISTORY
from api.calls.problems import ApiError
from api.contract.fields import NoQuery
from api.contract.validation import read_body, read_idempotency_key, read_query, refuse_query
from api.contract.wallets import AmountBody, BalanceOut, BalanceQuery, MoneyOut, TransactionsQuery
from api.direct import Answer, directly
from api.edge.edge import call_of
from api.services import Services
from models.ledger.transfer import Receipt

blueprint = Blueprint("wallets", __name__)


@blueprint.post("/api/deposit/v1")
@directly
def deposit(services: Services, environ: dict[str, Any]) -> Answer:
    """Credit the user's wallet; open it if there is none."""
    call = call_of(environ)
    user_id = services.identity.require_depositor(call)
    return _moved(orders.deposit(services, call, _read(services, environ, user_id)))


@blueprint.post("/api/withdraw/v1")
@directly
def withdraw(services: Services, environ: dict[str, Any]) -> Answer:
    """Debit the user's wallet."""
    call = call_of(environ)
    user_id = services.identity.require_user(call)
    return _moved(orders.withdraw(services, call, _read(services, environ, user_id)))


@blueprint.get("/api/wallet/balance/v1")
@directly
def balance(services: Services, environ: dict[str, Any]) -> Answer:
    """Return the posted balance, as it is or as it was at an instant."""
    call = call_of(environ)
    if not environ["QUERY_STRING"]:
        return Answer(BALANCE.answer(services, call, NoQuery))
    user_id = services.identity.require_user(call)
    at = read_query(environ, BalanceQuery).at
    if at is None:
        return Answer.of(BalanceOut(balance=services.history.get_balance(user_id).cents))
    if at > datetime.now(UTC):
        raise ApiError("bad_input", "query: at: lies in the future")
    return Answer.of(BalanceOut(balance=services.statements.get_balance_at(user_id, at)))


@blueprint.get("/api/transactions/v1")
@directly
def transactions(services: Services, environ: dict[str, Any]) -> Answer:
    """Return a page of the history, newest first."""
    return Answer(HISTORY.answer(services, call_of(environ), partial(read_query, environ, TransactionsQuery)))


def _read(services: Services, environ: dict[str, Any], user_id: int) -> Terms:
    refuse_query(environ)
    body = read_body(environ, AmountBody, most_bytes=services.max_body_bytes)
    return Terms(user_id, body.amount, read_idempotency_key(environ), body.details)


def _moved(receipt: Receipt) -> Answer:
    return Answer.of(MoneyOut(balance=receipt.balance_cents, transfer_id=receipt.transfer_id))
