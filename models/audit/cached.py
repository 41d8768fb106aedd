"""The audit of the cache: what is cached of a wallet is of its present version, and the balance is that version's.

A version of a wallet never changes: the entry of the same number has its balance for ever. So a cached balance can be
compared at any time, whatever is posted meanwhile. That the version is the present one is true only most of the time
(between a look at Redis and one at PostgreSQL a wallet may move on), so what is wrong is looked at again: what was
cached of a version that was over at the first look must be gone by the second.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import orjson
import redis
from sqlalchemy import Engine, text

from models.audit.audit import Finding, Position, Slice, finding
from models.cache.pulse import EPOCH
from models.cache.wallet_cache import ENTRIES
from models.database.engine import fetch_all

# Between the looks. Kept evictions are done within about a second of Redis's return.
APART_S = 5.0
# Suspects that are looked at again.
MAX_SUSPECTS = 50
# Which of a wallet's cached reads has its balance, under the same name.
BALANCE = "balance"

_BALANCES = text("""
SELECT held.id, w.version, CASE held.version WHEN 0 THEN 0 ELSE coalesce(e.balance_after, o.balance) END AS balance
FROM unnest(CAST(:ids AS bigint[]), CAST(:versions AS bigint[])) AS held (id, version)
LEFT JOIN LATERAL (SELECT version FROM wallets WHERE wallets.id = held.id LIMIT 1) w ON true
LEFT JOIN LATERAL (
    SELECT balance_after FROM entries WHERE wallet_id = held.id AND seq = held.version LIMIT 1
) e ON true
LEFT JOIN LATERAL (
    SELECT balance FROM openings WHERE e.balance_after IS NULL AND wallet_id = held.id AND seq = held.version LIMIT 1
) o ON true
""")


class _Held(NamedTuple):
    """What the cache has of a wallet; ``balance_cents``: None if it has only pages."""

    version: int
    balance_cents: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the audit of the cache stands. ``suspects``: versions by the id of their wallet, JSON's way."""

    cursor: int = 0
    is_walked: bool = False
    again_at: float | None = None
    suspects: dict[str, int] = field(default_factory=dict)


class CacheCheck:
    """Audits the cached balances of one database's wallets. Changes nothing."""

    name = "cache"

    def __init__(self, engine: Engine, connection: redis.Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._redis: Any = connection
        self._clock = clock

    def run(self, position: Position, limit: int) -> Slice:
        """Look at about ``limit`` of Redis's keys, however few of them are the cache's.

        Raises:
            Unavailable: PostgreSQL is away.
            redis.RedisError: Redis is away.
        """
        place = _Place(**position)
        if place.is_walked:
            return self._look_again(place)
        cursor, keys = self._redis.scan(place.cursor, match=f"{ENTRIES}*", count=limit)
        suspects = place.suspects | self._find_wrong(key.decode().removeprefix(ENTRIES) for key in keys)
        kept = dict(list(suspects.items())[:MAX_SUSPECTS])
        return _on(replace(place, cursor=cursor, is_walked=cursor == 0, suspects=kept))

    def _look_again(self, place: _Place) -> Slice:
        if not place.suspects:
            return Slice(position=None)
        if place.again_at is None:
            return _on(replace(place, again_at=self._clock() + APART_S), pause_s=APART_S)
        wait_s = place.again_at - self._clock()
        if wait_s > 0:
            return _on(place, pause_s=wait_s)
        wrong = self._find_wrong(place.suspects)
        still = [each for each, version in wrong.items() if version == place.suspects[each]]
        found: list[Finding] = []
        if still:
            detail = f"wallet {still[0]}: cached as of version {wrong[still[0]]}, which is over, or had another balance"
            found.append(finding("cache_equals_books", still, detail))
        return Slice(position=None, findings=found)

    def _find_wrong(self, wallet_ids: Iterable[str]) -> dict[str, int]:
        """Return the cached versions of those wallets of which what is cached is not what the books say now."""
        held = self._read([each for each in wallet_ids if each.isdecimal()])
        if not held:
            return {}
        parameters = {"ids": [int(each) for each in held], "versions": [each.version for each in held.values()]}
        rows = {str(row.id): row for row in fetch_all(self._engine, _BALANCES.bindparams(**parameters))}
        return {
            each: cached.version
            for each, cached in held.items()
            if cached.version != rows[each].version
            or (cached.balance_cents is not None and cached.balance_cents != rows[each].balance)
        }

    def _read(self, wallet_ids: list[str]) -> dict[str, _Held]:
        """Read what is cached in the present epoch: what is of another is believed by nobody."""
        with self._redis.pipeline(transaction=True) as moment:
            moment.get(EPOCH)
            for each in wallet_ids:
                moment.hmget(f"{ENTRIES}{each}", "epoch", "version", BALANCE)
            present, *found = moment.execute()
        return {
            each: _Held(int(version), None if payload is None else int(orjson.loads(payload)["balance"]))
            for each, (epoch, version, payload) in zip(wallet_ids, found, strict=True)
            if epoch is not None and epoch == present
        }


def _on(place: _Place, **of_slice: Any) -> Slice:
    return Slice(position=asdict(place), **of_slice)
