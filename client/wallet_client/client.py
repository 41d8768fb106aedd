"""What every caller may ask, whoever he is: the ground under :class:`WalletClient` and :class:`AdminClient`."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, TypeVar, Unpack

from wallet_client import operations
from wallet_client.calling import Asked, Caller, Credentials, Traceparent
from wallet_client.connection import Connections
from wallet_client.errors import NotFinal
from wallet_client.operations import Operation
from wallet_client.resources import Bulk, Health, Moved, Readiness, Statement, Transfer, TransfersPage
from wallet_client.retries import Retries

# The longest that the service lets anybody wait.
LONGEST_WAIT_S = 20.0
MOST_OF_A_PAGE = 100


class Options(TypedDict, total=False):
    """How to reach the service.

    ``timeout_s``: the longest silence of a try (10). ``traceparent``: what returns the W3C trace of the moment.
    ``context``: of TLS.
    """

    timeout_s: float
    retries: Retries
    traceparent: Traceparent | None
    context: ssl.SSLContext | None


class Details(TypedDict, total=False):
    """What may be said of a movement of money, and the key it goes under.

    ``description``: 1 to 140 characters, for people. ``reference``: 1 to 64, your own name for it. ``metadata``: pairs
    of words. ``idempotency_key``: 1 to 255 characters, best made of what the movement is for; without one it has a
    random one, which holds for the repetitions that the client makes by itself, and for nothing after them.
    """

    description: str | None
    reference: str | None
    metadata: Mapping[str, str] | None
    idempotency_key: str | None


class Filters(TypedDict, total=False):
    """Which transfers. An administrator's have ``user_id`` as well."""

    status: str | None
    kind: str | None
    direction: str | None
    counterparty_user_id: int | None
    reference: str | None
    idempotency_key: str | None
    bulk_id: int | None
    amount_min: int | None
    amount_max: int | None
    created_from: datetime | None
    created_to: datetime | None
    user_id: int | None


class _Ending(Protocol):
    @property
    def is_final(self) -> bool: ...


T = TypeVar("T")
E = TypeVar("E", bound=_Ending)


class Client:
    """Calls that users and administrators have in common. Threads may share a client. Use it as a context manager."""

    def __init__(self, base_url: str, credentials: Credentials, options: Options) -> None:
        self._caller = Caller(
            Connections(base_url, context=options.get("context")),
            credentials,
            timeout_s=options.get("timeout_s", 10.0),
            retries=options.get("retries") or Retries(),
            traceparent=options.get("traceparent"),
        )

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections, those of other threads, too."""
        self._caller.close()

    def job(self, job_id: int, *, wait_s: float = 0.0) -> Transfer:
        """Return how a transfer of any kind stands; with ``wait_s`` (20 at most) as soon as its status is final."""
        return self._caller.call(operations.JOB, _waiting({"job_id": job_id}, wait_s))

    def wait_for(self, job_id: int, *, timeout_s: float = 60.0) -> Transfer:
        """Wait until a transfer's status is final, and return it: posted, rejected, failed or canceled.

        Raises:
            NotFinal: it is pending still. It goes on without anybody's help: wait for it again, or another time.
            WalletError: it could not be asked.
        """
        return self._wait(lambda wait_s: self.job(job_id, wait_s=wait_s), f"transfer {job_id}", timeout_s)

    def transfer(self, transfer_id: int) -> Transfer:
        """Return a transfer."""
        return self._caller.call(operations.TRANSFER, Asked(path={"transfer_id": transfer_id}))

    def transfers(self, *, page_size: int = MOST_OF_A_PAGE, **filters: Unpack[Filters]) -> Iterator[Transfer]:
        """Iterate over transfers, newest first, page by page as they are wanted."""
        cursor: str | None = None
        while True:
            page = self.transfers_page(page_size=page_size, cursor=cursor, **filters)
            yield from page.transfers
            if not page.has_more:
                return
            cursor = page.next_cursor

    def transfers_page(
        self, *, page_size: int = MOST_OF_A_PAGE, cursor: str | None = None, **filters: Unpack[Filters]
    ) -> TransfersPage:
        """Return a page of transfers: from the newest on, or from another page's ``next_cursor``."""
        query = {**filters, "page_size": page_size, "cursor": cursor}
        return self._caller.call(operations.TRANSFERS, Asked(query=query))

    def reverse(self, transfer_id: int, amount: int | None = None, **details: Unpack[Details]) -> Moved:
        """Give back what was paid by a transfer: all that is left, or a part. ``balance``: the one it is taken from."""
        return self._move(operations.REVERSE, {"amount": amount}, details, path={"transfer_id": transfer_id})

    def cancel(self, job_id: int) -> Transfer:
        """Call a pending transfer off, and return it: canceled, now or before."""
        return self._caller.call(operations.CANCEL, Asked(path={"job_id": job_id}))

    def bulk(self, bulk_id: int, *, wait_s: float = 0.0) -> Bulk:
        """Return how transfers that were ordered together stand; with ``wait_s`` (20 at most) once all are final."""
        return self._caller.call(operations.BULK, _waiting({"bulk_id": bulk_id}, wait_s))

    def wait_for_bulk(self, bulk_id: int, *, timeout_s: float = 300.0) -> Bulk:
        """Wait until each of them has a final status.

        Raises:
            NotFinal: some are pending still.
            WalletError: it could not be asked.
        """
        return self._wait(lambda wait_s: self.bulk(bulk_id, wait_s=wait_s), f"bulk {bulk_id}", timeout_s)

    def _move(
        self,
        operation: Operation[T],
        body: Mapping[str, object],
        details: Details,
        *,
        path: Mapping[str, object] | None = None,
    ) -> T:
        said = {name: value for name, value in details.items() if name != "idempotency_key"}
        asked = Asked(path=path, body=without_none({**body, **said}), idempotency_key=details.get("idempotency_key"))
        return self._caller.call(operation, asked)

    def _statement(self, first_day: date, last_day: date, user_id: int | None = None) -> Statement:
        query = {"from": first_day, "to": last_day, "format": "json", "user_id": user_id}
        return self._caller.call(operations.STATEMENT, Asked(query=query))

    def _statement_csv(self, first_day: date, last_day: date, user_id: int | None = None) -> str:
        query = {"from": first_day, "to": last_day, "format": "csv", "user_id": user_id}
        return self._caller.call(operations.STATEMENT_CSV, Asked(query=query))

    def _wait(self, ask: Callable[[float], E], what: str, timeout_s: float) -> E:
        """Ask until it is final; ``ask`` is told how many seconds the service may keep the answer."""
        retries = self._caller.retries
        ends_at = retries.clock() + timeout_s
        asked = 0
        while True:
            wait_s = min(max(ends_at - retries.clock(), 0.0), LONGEST_WAIT_S)
            asked_at = retries.clock()
            found = ask(round(wait_s, 3))
            if found.is_final:
                return found
            left_s = ends_at - retries.clock()
            if left_s <= 0:
                raise NotFinal(f"{what} is not final after {timeout_s} s")
            # Whoever is not kept waiting, since too many wait already, or nobody can, pauses here.
            if retries.clock() - asked_at < wait_s / 2:
                asked += 1
                retries.sleep(min(retries.pause_s(asked, None), left_s))

    def health(self) -> Health:
        """Return that the process lives."""
        return self._caller.call(operations.HEALTH)

    def readiness(self) -> Readiness:
        """Return whether the service can work: ready, degraded, unready or stopping."""
        return self._caller.call(operations.READINESS)

    def metrics(self) -> str:
        """Return what the service counts, as Prometheus reads it."""
        return self._caller.call(operations.METRICS)

    def document(self) -> dict[str, Any]:
        """Return the contract as an OpenAPI document."""
        return self._caller.call(operations.DOCUMENT)


def _waiting(path: Mapping[str, object], wait_s: float) -> Asked:
    return Asked(path=path, query={"wait": wait_s} if wait_s else None, wait_s=wait_s)


def without_none(pairs: Mapping[str, object]) -> dict[str, object]:
    """Leave out what is not said."""
    return {name: value for name, value in pairs.items() if value is not None}
