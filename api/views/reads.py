"""Reads that are served from the cache: one round trip to Redis for the throttle and the answer, none to PostgreSQL."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from api.contract.validation import read_query
from api.direct import Answer
from api.edge.errors import ApiError
from api.services import Services
from models.cache.wallet_cache import Miss

Query = TypeVar("Query", bound=BaseModel)


class Snapshot(NamedTuple):
    """An answer, and the version of the wallet that it was read of."""

    version: int
    answer: BaseModel


class CachedRead(NamedTuple):
    """A kind of read of one's own wallet.

    ``query``: the model of the request's. ``name``: what the answer to a query is called in the cache. ``load``: reads
    it from PostgreSQL, for a user.
    """

    query: type[Any]
    name: Callable[[Any], str]
    load: Callable[[Services, int, Any], Snapshot]

    def answer(self, services: Services, environ: dict[str, Any]) -> Answer:
        """Answer from the cache, if it is there.

        Raises:
            ApiError: ``unauthorized``, ``rate_limited``, ``bad_input``.
            models.errors.WalletServiceError: what ``load`` raises.
        """
        user_id = services.identity.identify_user(environ)
        try:
            asked = read_query(environ, self.query)
        except ApiError:
            services.limits.take(environ, str(user_id))
            raise
        field = self.name(asked)
        found = _look(services, environ, user_id, field)
        if isinstance(found, bytes):
            return Answer(found)
        snapshot = self.load(services, user_id, asked)
        answer = Answer.of(snapshot.answer)
        if isinstance(found, Miss):
            services.cache.fill(user_id, field, found, snapshot.version, answer.payload)
        return answer


def _look(services: Services, environ: dict[str, Any], user_id: int, field: str) -> bytes | Miss | None:
    """Take a token and ask the cache, together where both are in one Redis."""
    cache, limits = services.cache, services.limits
    if not services.shares_redis:
        limits.take(environ, str(user_id))
        return cache.look(user_id, field)
    question = cache.question(user_id, field)
    replied = limits.take(environ, str(user_id), question)
    if replied is None:
        # Nothing is throttled; or Redis did not answer, and then it is not asked again for this request.
        return cache.look(user_id, field) if limits.are_off else None
    return cache.answer(*replied)
