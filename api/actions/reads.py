"""Reads that are served from the cache: one round trip to Redis for the throttle and the answer, none to PostgreSQL."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from api.calls.call import Call
from api.calls.problems import RETRY_AFTER_S, ApiError
from api.contract.fields import NoQuery
from api.contract.wallets import BalanceOut, FrozenOut, TransactionOut, TransactionsOut, TransactionsQuery
from api.services import Services
from models.cache.wallet_cache import Miss
from models.ledger.settlement import EntryType

Query = TypeVar("Query", bound=BaseModel)


class Snapshot(NamedTuple):
    """An answer, and the version of the wallet that it was read of."""

    version: int
    answer: BaseModel


@dataclass(frozen=True, slots=True)
class CachedRead(Generic[Query]):
    """A kind of read of one's own wallet, answered in the JSON of REST.

    ``name``: what the answer to a query is called in the cache. ``load``: reads it from PostgreSQL, for a user.
    """

    name: Callable[[Query], str]
    load: Callable[[Services, int, Query], Snapshot]

    def answer(self, services: Services, call: Call, read: Callable[[], Query]) -> bytes:
        """Answer from the cache, if it is there; ``read`` says what is asked for.

        Raises:
            ApiError: ``unauthorized``, ``rate_limited``, and what ``read`` raises.
            models.errors.WalletServiceError: what ``load`` raises.
        """
        user_id = services.identity.identify_user(call)
        try:
            asked = read()
        except ApiError:
            services.limits.take(call, str(user_id))
            raise
        field = self.name(asked)
        found = _look(services, call, user_id, field)
        if isinstance(found, bytes):
            return found
        if time.monotonic() > call.ends_at:
            # Nobody waits for it any more, and the database may be the reason.
            raise ApiError("unavailable", "The deadline has passed.", {"Retry-After": str(RETRY_AFTER_S)})
        snapshot = self.load(services, user_id, asked)
        payload: bytes = snapshot.answer.__pydantic_serializer__.to_json(snapshot.answer)
        if isinstance(found, Miss):
            services.cache.fill(user_id, field, found, snapshot.version, payload)
        return payload


def _look(services: Services, call: Call, user_id: int, field: str) -> bytes | Miss | None:
    """Take a token and ask the cache, together where both are in one Redis."""
    cache, limits = services.cache, services.limits
    if not services.shares_redis:
        limits.take(call, str(user_id))
        return cache.look(user_id, field)
    question = cache.question(user_id, field)
    replied = limits.take(call, str(user_id), question)
    if replied is None:
        # Nothing is throttled; or Redis did not answer, and then it is not asked again for this request.
        return cache.look(user_id, field) if limits.are_off else None
    return cache.answer(*replied)


def _load_balance(services: Services, user_id: int, _: NoQuery) -> Snapshot:
    found = services.history.get_balance(user_id)
    frozen = FrozenOut.of(debits=found.debits_frozen, credits=found.credits_frozen)
    return Snapshot(found.version, BalanceOut(balance=found.cents, frozen=frozen))


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
        before_seq=query.cursor,
    )
    answer = TransactionsOut(
        transactions=[TransactionOut.of(entry) for entry in page.entries],
        statement_balance=page.statement_balance_cents,
        page=None if query.cursor else number,
        page_size=query.page_size,
        has_more=page.next_seq is not None,
        next_cursor=page.next_seq,
    )
    return Snapshot(page.version, answer)


BALANCE = CachedRead(lambda _: "balance", _load_balance)
HISTORY = CachedRead(_name_of_page, _load_page)
