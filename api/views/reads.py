"""Reads that are served from the cache: one round trip to Redis for the throttle and the answer, none to PostgreSQL."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from flask import Response, current_app
from pydantic import BaseModel

from api.access.identity import identify_user
from api.access.limits import limits
from api.contract.validation import read_query
from api.edge.errors import ApiError
from api.services import services
from models.cache.wallet_cache import Miss

Query = TypeVar("Query", bound=BaseModel)


class Snapshot(NamedTuple):
    """An answer, and the version of the wallet that it was read of."""

    version: int
    answer: BaseModel


def answer(query: type[Query], name: Callable[[Query], str], load: Callable[[int, Query], Snapshot]) -> Response:
    """Answer a read of the caller's wallet, from the cache if it is there.

    Args:
        query: the model of the request's query.
        name: what the answer to a query is called in the cache.
        load: reads it from PostgreSQL, for a user.

    Raises:
        ApiError: ``unauthorized``, ``rate_limited``, ``bad_input``.
        models.errors.WalletServiceError: what ``load`` raises.
    """
    user_id = identify_user()
    try:
        asked = read_query(query)
    except ApiError:
        limits().take(str(user_id))
        raise
    field = name(asked)
    found = _look(user_id, field)
    if isinstance(found, bytes):
        return _response(found)
    snapshot = load(user_id, asked)
    payload = snapshot.answer.__pydantic_serializer__.to_json(snapshot.answer)
    if isinstance(found, Miss):
        services().cache.fill(user_id, field, found, snapshot.version, payload)
    return _response(payload)


def _look(user_id: int, field: str) -> bytes | Miss | None:
    """Take a token and ask the cache, together where both are in one Redis."""
    cache = services().cache
    if not services().shares_redis:
        limits().take(str(user_id))
        return cache.look(user_id, field)
    question = cache.question(user_id, field)
    replied = limits().take(str(user_id), question)
    if replied is None:
        # Nothing is throttled; or Redis did not answer, and then it is not asked again for this request.
        return cache.look(user_id, field) if limits().are_off else None
    return cache.answer(*replied)


def _response(payload: bytes) -> Response:
    return current_app.response_class(payload, mimetype="application/json")
