"""redis-py's client with bounds on every wait, and no retries of its own."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# On the request path a Redis that does not answer may cost this much once.
CONNECT_TIMEOUT_S = 0.3
ANSWER_TIMEOUT_S = 0.3


def connect_redis(
    url: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> redis.Redis:
    """Make a client with short timeouts and no retries. Nothing is connected yet.

    A script whose reply was lost must not be sent again by the client: whether it may is for the caller to know.
    """
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=connect_timeout_s,
        socket_timeout=answer_timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
