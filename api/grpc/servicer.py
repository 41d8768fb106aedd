"""The methods of the contract: read the message, do what REST does, answer. Each is REST's route of the same name.

A field that is 0 or empty is one that is not there: proto3 does not tell the two apart.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import orjson

from api.actions import orders
from api.actions.orders import Terms
from api.actions.reads import BALANCE, HISTORY
from api.actions.watching import Watcher, Watching
from api.calls.problems import RETRY_AFTER_S
from api.contract.checking import validate
from api.contract.fields import NoQuery
from api.contract.transfers import LaterTransferBody, TransferBody
from api.contract.wallets import AmountBody, TransactionsQuery
from api.edge.proxies import Proxies
from api.grpc.answering import Asked, Face, stream, unary
from api.grpc.messages import job_of, page_of, said_of
from api.services import Services
from jobs.event_json import rfc3339
from models.errors import TransferNotFound
from models.ledger.transfer import Kind, Receipt, Status
from wallet.v1.wallet_pb2 import (
    AmountRequest,
    Balance,
    BalanceRequest,
    Job,
    JobRequest,
    MoneyReply,
    TransactionPage,
    TransactionsRequest,
    TransferRequest,
)
from wallet.v1.wallet_pb2_grpc import WalletServiceServicer

_WHAT = "request"
_NOTHING = NoQuery()

Body = TypeVar("Body", bound=TransferBody)


class WalletServicer(Face, WalletServiceServicer):
    """Serves WalletService."""

    def __init__(self, services: Services, proxies: Proxies, watching: Watching) -> None:
        super().__init__(services, proxies)
        self._watching = watching

    @unary
    def Deposit(self, request: AmountRequest, asked: Asked) -> MoneyReply:
        """Credit the caller's wallet; open it if there is none."""
        user_id = self.services.identity.require_depositor(asked.call)
        return _moved(orders.deposit(self.services, asked.call, _read_amount(request, asked, user_id)))

    @unary
    def Withdraw(self, request: AmountRequest, asked: Asked) -> MoneyReply:
        """Debit the caller's wallet."""
        user_id = self.services.identity.require_user(asked.call)
        return _moved(orders.withdraw(self.services, asked.call, _read_amount(request, asked, user_id)))

    @unary
    def Transfer(self, request: TransferRequest, asked: Asked) -> MoneyReply:
        """Move money before answering."""
        user_id = self.services.identity.require_user(asked.call)
        terms, body = _read_transfer(request, asked, user_id, TransferBody)
        return _moved(orders.transfer_now(self.services, asked.call, terms, body.destination_user_id))

    @unary
    def EnqueueTransfer(self, request: TransferRequest, asked: Asked) -> Job:
        """Record the transfer, put its job on the queue, and answer with what GetJob answers of it."""
        user_id = self.services.identity.require_user(asked.call)
        terms, body = _read_transfer(request, asked, user_id, LaterTransferBody)
        acceptance = orders.transfer_later(self.services, asked.call, terms, body.destination_user_id, body.not_before)
        planned = "" if body.not_before is None else rfc3339(body.not_before)
        is_ahead = body.not_before is not None and body.not_before > datetime.now(UTC)
        job = Job(
            job_id=acceptance.transfer_id,
            status=Status.PENDING.value,
            source_user_id=user_id,
            destination_user_id=body.destination_user_id,
            amount=terms.amount_cents,
            kind=Kind.TRANSFER.value,
            **said_of(terms.details),
            not_before=planned,
            next_attempt_at=planned if is_ahead else "",
        )
        asked.call.tell("Retry-After", str(RETRY_AFTER_S))
        return job

    @unary
    def GetJob(self, request: JobRequest, asked: Asked) -> Job:
        """Return how a transfer stands."""
        caller = self.services.identity.require_user_or_admin(asked.call)
        return job_of(self.services.history.get_transfer(_read_job_id(request, asked), seen_by=caller))

    @stream
    def WatchJob(self, request: JobRequest, asked: Asked) -> Iterator[Job]:
        """Return how a transfer stands, and again at every change, until its status is final."""
        caller = self.services.identity.require_user_or_admin(asked.call)
        watcher = Watcher()
        if not asked.context.add_callback(watcher.go):
            return
        for transfer in self._watching.follow(
            _read_job_id(request, asked), seen_by=caller, seconds=asked.seconds_left, watcher=watcher
        ):
            yield job_of(transfer)

    @unary
    def GetBalance(self, request: BalanceRequest, asked: Asked) -> Balance:
        """Return the posted balance."""
        read = partial(_read_nothing, request, asked)
        return Balance(balance=orjson.loads(BALANCE.answer(self.services, asked.call, read))["balance"])

    @unary
    def ListTransactions(self, request: TransactionsRequest, asked: Asked) -> TransactionPage:
        """Return a page of the history, newest first."""
        return page_of(HISTORY.answer(self.services, asked.call, partial(_read_page, request, asked)))


def _read_amount(request: AmountRequest, asked: Asked, user_id: int) -> Terms:
    asked.check_message(request)
    body = validate(AmountBody, _given(request), what=_WHAT)
    asked.check_time()
    return Terms(user_id, body.amount, asked.sent.read_idempotency_key(), body.details)


def _read_transfer(request: TransferRequest, asked: Asked, user_id: int, model: type[Body]) -> tuple[Terms, Body]:
    asked.check_message(request)
    given = _given(request) | {"destination_user_id": request.destination_user_id}
    if request.not_before:  # which not every model has
        given["not_before"] = request.not_before
    body = validate(model, given, what=_WHAT)
    asked.check_time()
    return Terms(user_id, body.amount, asked.sent.read_idempotency_key(), body.details), body


def _given(request: AmountRequest | TransferRequest) -> dict[str, Any]:
    """Return the amount, and what there is to say of it."""
    given: dict[str, Any] = {"amount": request.amount}
    if request.description:
        given["description"] = request.description
    if request.reference:
        given["reference"] = request.reference
    if request.metadata:
        given["metadata"] = dict(request.metadata)
    return given


def _read_nothing(request: BalanceRequest, asked: Asked) -> NoQuery:
    asked.check_message(request)
    return _NOTHING


def _read_page(request: TransactionsRequest, asked: Asked) -> TransactionsQuery:
    asked.check_message(request)
    given: dict[str, Any] = {
        name: value for name in ("type", "page", "page_size", "cursor") if (value := getattr(request, name))
    }
    return validate(TransactionsQuery, given, what=_WHAT)


def _read_job_id(request: JobRequest, asked: Asked) -> int:
    asked.check_message(request)
    if request.job_id <= 0:
        raise TransferNotFound(request.job_id)
    return request.job_id


def _moved(receipt: Receipt) -> MoneyReply:
    return MoneyReply(transfer_id=receipt.transfer_id, balance=receipt.balance_cents)
