"""Making a call until it has an answer, within bounds, and never so that money could move twice."""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from wallet_client.connection import Answer, Connections, Request, StaleConnection
from wallet_client.decoding import Unreadable, decode
from wallet_client.errors import (
    Forbidden,
    OutcomeUnknown,
    Problem,
    RateLimited,
    Unauthorized,
    Unavailable,
    WalletError,
    doubtful,
    error_of,
    lost,
)
from wallet_client.operations import Operation
from wallet_client.retries import Retries

T = TypeVar("T")

Json: TypeAlias = dict[str, Any]
# Who asks, as the header has it; a function is asked anew for each try, so that a token can be renewed.
Credentials: TypeAlias = Callable[[], str]
# The W3C trace that a request belongs to, if any.
Traceparent: TypeAlias = Callable[[], str | None]

_NAME = re.compile(r"{(\w+)}")
# What a service says before it has looked whether a key was used: of an earlier try that was lost it says nothing.
_SAYS_NOTHING_OF_EARLIER_TRIES = (Unavailable, RateLimited, Unauthorized, Forbidden)
_SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What goes with a call: values for the names in its path, query, body, key, and how long it asks to wait."""

    path: Mapping[str, object] | None = None
    query: Mapping[str, object] | None = None
    body: Mapping[str, object] | None = None
    idempotency_key: str | None = None
    wait_s: float = 0.0


class Caller:
    """Makes calls to one service in one name."""

    def __init__(
        self,
        connections: Connections,
        credentials: Credentials,
        *,
        timeout_s: float,
        retries: Retries,
        traceparent: Traceparent | None = None,
    ) -> None:
        self._connections = connections
        self._credentials = credentials
        self._timeout_s = timeout_s
        self.retries = retries
        self._traceparent = traceparent

    def call(self, operation: Operation[T], asked: Asked | None = None) -> T:
        """Make a call, and again as long as that makes sense.

        Raises:
            WalletError: it did not succeed; which of them says why, and what is known of its outcome.
        """
        asked = asked or Asked()
        key = (asked.idempotency_key or str(uuid.uuid4())) if operation.moves_money else None
        request = Request(
            operation.method,
            _target(operation.path, asked),
            None if asked.body is None else json.dumps(asked.body, default=_spell).encode(),
            wants_new_connection=not operation.repeatable,
        )
        try:
            return self._repeat(operation, request, key, asked.wait_s)
        except WalletError as error:
            # Nobody can be in doubt of what a reading call has done.
            named = Unavailable(error.problem) if operation.reads and isinstance(error, OutcomeUnknown) else error
            raise named.under(key) from error

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _repeat(self, operation: Operation[T], request: Request, key: str | None, wait_s: float) -> T:
        retries, tried = self.retries, 0
        ends_at = retries.clock() + retries.deadline_s + wait_s
        doubt: OutcomeUnknown | None = None
        while True:
            tried += 1
            left_s = max(ends_at - retries.clock(), 0.001)
            is_stale = False
            try:
                return self._try(operation, request, key, timeout_s=min(self._timeout_s + wait_s, left_s))
            except StaleConnection:
                error: WalletError = lost("the connection was closed")
                is_stale = True
            except WalletError as found:
                error = found
            if isinstance(error, OutcomeUnknown):
                doubt = error
            pause_s = 0.0 if is_stale else retries.pause_s(tried, error.retry_after_s)
            if not _may_be_repeated(operation, error) or tried >= retries.tries or retries.clock() + pause_s >= ends_at:
                if doubt and isinstance(error, _SAYS_NOTHING_OF_EARLIER_TRIES):
                    raise doubtful(error, doubt.transfer_id) from error
                raise error
            retries.sleep(pause_s)

    def _try(self, operation: Operation[T], request: Request, key: str | None, *, timeout_s: float) -> T:
        headers = {
            "Authorization": self._credentials(),
            "Accept": "application/json, */*;q=0.5",
            "User-Agent": "wallet-client",
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        if self._traceparent and (trace := self._traceparent()):
            headers["traceparent"] = trace
        answer = self._connections.ask(request, headers, timeout_s=timeout_s)
        if answer.status in _SUCCESS or (answer.status == operation.also and not _is_problem(answer)):
            return _read(operation, answer, key)
        raise error_of(_problem(answer))


def _may_be_repeated(operation: Operation[Any], error: WalletError) -> bool:
    if isinstance(error, OutcomeUnknown):
        return operation.repeatable
    return isinstance(error, Unavailable | RateLimited)


def _target(path: str, asked: Asked) -> str:
    named = asked.path or {}
    target = _NAME.sub(lambda name: quote(str(named[name[1]]), safe=""), path)
    query = {name: _spell(value) for name, value in (asked.query or {}).items() if value is not None}
    return f"{target}?{urlencode(query)}" if query else target


def _spell(value: object) -> object:
    """Spell what JSON and queries have no word for.

    Raises:
        ValueError: a time does not say of which zone it is.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time should say its zone: datetime.now(UTC), not datetime.now()")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value if isinstance(value, str | int | float) else str(value)


def _read(operation: Operation[T], answer: Answer, key: str | None) -> T:
    kind: Any = operation.answer
    try:
        if kind is NoneType:
            return decode(operation.answer, None)
        text = answer.body.decode()
        found = text if kind is str else json.loads(text)
        if key is not None and isinstance(found, dict):
            replayed = answer.headers.get("idempotency-replayed") == "true"
            found |= {"replayed": replayed, "idempotency_key": key}
        return decode(operation.answer, found)
    except (Unreadable, ValueError) as error:
        raise lost(f"the answer cannot be read: {error}") from error


def _is_problem(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("application/problem+json")


def _problem(answer: Answer) -> Problem:
    """Read a problem; what stands in front of the service may answer without one."""
    try:
        found = json.loads(answer.body) if _is_problem(answer) else {}
    except ValueError:
        found = {}
    said: Json = found if isinstance(found, dict) else {}
    unnamed = f"status {answer.status}, without a problem document"
    transfer_id = said.get("transfer_id")
    return Problem(
        code=str(said.get("code", "unexpected_status")),
        status=answer.status,
        detail=str(said.get("detail", unnamed)),
        message=str(said.get("message", unnamed)),
        trace_id=said.get("trace_id"),
        transfer_id=int(transfer_id) if isinstance(transfer_id, str) and transfer_id.isdecimal() else None,
        retry_after_s=_seconds(answer.headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    """Read Retry-After. As a date it is not the service's, and the pauses will do."""
    return float(text) if text and text.isascii() and text.isdigit() else None
