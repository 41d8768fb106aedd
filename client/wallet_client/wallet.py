"""A user's wallet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Unpack

from wallet_client import operations
from wallet_client.calling import Asked
from wallet_client.client import MOST_OF_A_PAGE, Client, Details, Options, without_none
from wallet_client.resources import (
    Accepted,
    Balance,
    BulkAccepted,
    Moved,
    Statement,
    Transaction,
    TransactionsPage,
)


class LaterDetails(Details, total=False):
    """Those of a transfer that is made later. ``not_before``: when it is tried first, at most 366 days ahead."""

    not_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One of a bulk."""

    destination_user_id: int
    amount: int
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, str] | None = None


class WalletClient(Client):
    """Calls of one user.

    Every call that moves money goes under an idempotency key, and is repeated under it until there is an answer, within
    the bounds of ``retries``: it moves money once. Every method may raise a :class:`~wallet_client.errors.WalletError`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        user_id: int | None = None,
        token: str | Callable[[], str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Connect to nothing yet.

        Args:
            base_url: where the service is, such as ``http://127.0.0.1:8080``.
            user_id: who asks, where callers are believed (``AUTH_MODE=user-id``).
            token: a bearer token, or what returns one; it is asked before each try.
            options: see :class:`~wallet_client.client.Options`.

        Raises:
            ValueError: not exactly one of ``user_id`` and ``token`` is given, or ``base_url`` is no URL.
        """
        if (user_id is None) == (token is None):
            raise ValueError("one of user_id and token should be given")
        super().__init__(base_url, lambda: _credentials(user_id, token), options)

    def deposit(self, amount: int, **details: Unpack[Details]) -> Moved:
        """Credit the wallet; opens it if there is none."""
        return self._move(operations.DEPOSIT, {"amount": amount}, details)

    def withdraw(self, amount: int, **details: Unpack[Details]) -> Moved:
        """Debit the wallet."""
        return self._move(operations.WITHDRAW, {"amount": amount}, details)

    def transfer_now(self, destination_user_id: int, amount: int, **details: Unpack[Details]) -> Moved:
        """Pay somebody, and return once the money has moved (v1)."""
        body = {"destination_user_id": str(destination_user_id), "amount": amount}
        return self._move(operations.TRANSFER_NOW, body, details)

    def transfer_later(self, destination_user_id: int, amount: int, **details: Unpack[LaterDetails]) -> Accepted:
        """Have somebody paid by a job (v2): see :meth:`~wallet_client.client.Client.wait_for`."""
        body = {"destination_user_id": str(destination_user_id), "amount": amount}
        return self._move(operations.TRANSFER_LATER, body, details)

    def transfer_bulk(
        self, payments: Sequence[Payment], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> BulkAccepted:
        """Have many paid by jobs, or with ``atomic`` all or none of them."""
        body = {"transfers": [without_none(_of_payment(each)) for each in payments], "atomic": atomic}
        return self._caller.call(operations.TRANSFER_BULK, Asked(body=body, idempotency_key=idempotency_key))

    def balance(self, *, at: datetime | None = None) -> Balance:
        """Return the posted balance: now, or as it was at an instant."""
        return self._caller.call(operations.BALANCE, Asked(query={"at": at}))

    def transactions(self, *, type_: int = 0, page_size: int = MOST_OF_A_PAGE) -> Iterator[Transaction]:
        """Iterate over the history, newest first: without gaps or repeats while new rows arrive.

        Args:
            type_: 0 all, 1 deposits, 2 withdrawals, 3 transfers.
            page_size: how many are fetched at once.
        """
        page = self.transactions_page(type_=type_, page_size=page_size)
        yield from page.transactions
        while page.has_more:
            page = self.transactions_page(type_=type_, page_size=page_size, cursor=page.next_cursor)
            yield from page.transactions

    def transactions_page(
        self, *, type_: int = 0, page: int | None = None, page_size: int = 30, cursor: str | None = None
    ) -> TransactionsPage:
        """Return a part of the history: a page by its number, or what comes after another's ``next_cursor``."""
        query = {"type": type_, "page": page, "page_size": page_size, "cursor": cursor}
        return self._caller.call(operations.TRANSACTIONS, Asked(query=query))

    def statement(self, first_day: date, last_day: date) -> Statement:
        """Return all entries of some days (UTC's, both included), oldest first, and the balances around them."""
        return self._statement(first_day, last_day)

    def statement_csv(self, first_day: date, last_day: date) -> str:
        """Return the same as CSV."""
        return self._statement_csv(first_day, last_day)


def _credentials(user_id: int | None, token: str | Callable[[], str] | None) -> str:
    if token is None:
        return str(user_id)
    return f"Bearer {token if isinstance(token, str) else token()}"


def _of_payment(payment: Payment) -> dict[str, object]:
    return asdict(payment) | {"destination_user_id": str(payment.destination_user_id)}
