"""A lock in Redis that a full Redis gives, too: whoever holds it is to make room there."""

from pathlib import Path
from typing import Any

import redis
from redis.lock import Lock

_TAKE = (Path(__file__).parent / "lua" / "lock.lua").read_text()


class InsistentLock(Lock):
    """redis-py's lock, taken by whoever asks first; who does not get it is told at once."""

    def __init__(self, connection: redis.Redis, name: str, *, ttl_s: float) -> None:
        """Make it. ``ttl_s``: seconds until it is free again, unless it is reacquired."""
        super().__init__(connection, name, timeout=ttl_s, blocking=False, thread_local=False)
        self._take: Any = connection.register_script(_TAKE)
        self._ttl_ms = int(ttl_s * 1_000)

    def do_acquire(self, token: str) -> bool:
        """Take it if it is free."""
        return bool(self._take(keys=[self.name], args=[token, self._ttl_ms]))
